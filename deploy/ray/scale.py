"""`shoal scale`: other numbers of replicas for a running cluster; those that stay go on."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from deploy.ray.application import applied_configs, apply
from deploy.ray.connection import connected, free_resources, serve_client, serve_statuses
from deploy.ray.counts import deployments_of, rescaled
from deploy.ray.progress import failure_of, n_running
from deploy.ray.room import missing_for
from deploy.ray.scaling import Bounds
from deploy.ray.turn import own_turn
from deploy.state import ClusterState
from shoal.errors import FailedPreconditionError, NotFoundError, UnavailableError

Say = Callable[[str], None]

_POLL_S = 0.3


@dataclass(frozen=True, slots=True, kw_only=True)
class Scaled:
    """One deployment: how many replicas it ran, and how many it runs, within its bounds."""

    name: str
    before: int
    now: int
    least: int
    most: int


def scale(
    state: ClusterState, wanted: Mapping[str, Bounds], timeout_s: float, say: Say, *, may_grow: bool
) -> tuple[Scaled, ...]:
    """Changes the numbers, by role, and returns when so many replicas serve.

    Args:
        state: a cluster on Ray.
        wanted: by role.
        timeout_s: until all serve.
        say: hears of each replica that comes or goes.
        may_grow: Ray's autoscaler brings nodes: ask for what has no room yet.

    Raises:
        NotFoundError: the cluster has none of a role.
        FailedPreconditionError: the nodes have no room for them; nothing was changed.
        LockedError: another command changes applications, for long.
        UnavailableError: no Ray cluster, or not in time; Serve goes on trying.
    """
    with connected(state.ray_address):
        client = serve_client()
        with own_turn():
            config = applied_configs(client).get(state.name)
            if config is None:
                raise UnavailableError(
                    f"cluster {state.name!r} is not running on Ray at {state.ray_address}; start "
                    "it with 'shoal up --on ray'"
                )
            deployed = client.get_serve_details()["applications"][state.name]["deployments"]
            bounds = _by_deployment(wanted, list(deployed))
            before = {name: len(deployed[name]["replicas"]) for name in bounds}
            if not may_grow:
                _refuse_without_room(bounds, deployed)
            apply(client, rescaled(config, bounds))
        now = _until_so_many(state.name, bounds, timeout_s, say)
    return tuple(
        Scaled(name=name, before=before[name], now=now[name], least=b.least, most=b.most)
        for name, b in sorted(bounds.items())
    )


def _by_deployment(wanted: Mapping[str, Bounds], names: list[str]) -> dict[str, Bounds]:
    found = {}
    for role, bounds in wanted.items():
        parts = deployments_of(role, names)
        if not parts:
            why = "; its index is one of bare vectors" if role == "encoder" else ""
            raise NotFoundError(f"the cluster has no {role}{why}")
        found.update(dict.fromkeys(parts, bounds))
    return found


def _refuse_without_room(bounds: Mapping[str, Bounds], deployed: Mapping[str, Any]) -> None:
    asked = [
        (name, b.least - deployed[name]["target_num_replicas"],
         {what: amount for what, amount in deployed[name]["required_resources"].items() if amount})
        for name, b in bounds.items()
    ]  # fmt: skip
    growing = [(name, count, each) for name, count, each in asked if count > 0]
    if missing := missing_for(growing, list(free_resources().values())):
        raise FailedPreconditionError(
            f"{missing}; add nodes, ask for fewer, or say --may-grow where Ray's autoscaler adds "
            "nodes by itself; nothing was changed"
        )


def _until_so_many(
    name: str, bounds: Mapping[str, Bounds], timeout_s: float, say: Say
) -> dict[str, int]:
    until_s = time.monotonic() + timeout_s
    seen: dict[str, int] = {}
    while True:
        status = serve_statuses().get(name)
        if status is None:
            raise UnavailableError(f"cluster {name!r} has ended")
        told = {part: status.deployments[part] for part in bounds if part in status.deployments}
        counts = {part: n_running(deployment.replica_states) for part, deployment in told.items()}
        for part, count in counts.items():
            if count != seen.get(part):
                say(f"{part}: {count} running")
        seen = counts
        settled = all(
            bounds[part].hold(count) == count
            # others are on their way in or out
            and sum(told[part].replica_states.values()) == count
            for part, count in counts.items()
        )
        if settled and len(counts) == len(bounds):
            return counts
        if failure := failure_of(status):
            raise failure
        if time.monotonic() > until_s:
            lacks = ", ".join(f"{part} runs {count}" for part, count in counts.items())
            raise UnavailableError(
                f"not so many replicas within {timeout_s:g} s: {lacks}; Serve goes on trying, and "
                "'shoal status' shows how far it is"
            )
        time.sleep(_POLL_S)
