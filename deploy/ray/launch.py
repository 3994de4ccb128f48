"""`shoal up | down --on ray`: deploys the application, waits for it, and remembers it.

The command ends when the cluster is ready: Ray keeps it running. What this machine remembers of it
is one `ClusterState`, as of a local cluster.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from deploy.access import write_token
from deploy.local import index_facts
from deploy.plan import IndexFacts
from deploy.ray.application import (
    app_config,
    applied_configs,
    apply,
    is_ours,
    program_mark,
    refuse_other_shards,
)
from deploy.ray.connection import (
    cluster_cpus,
    connected,
    end_serve,
    free_resources,
    has_pending_demands,
    node_hosts,
    own_runtime_env,
    serve_client,
    serve_statuses,
)
from deploy.ray.counts import bounds_of, kept
from deploy.ray.gpu_share import shard_gpus
from deploy.ray.members import Roll, await_serving
from deploy.ray.options import RayOptions, check_doors
from deploy.ray.placing import Waiting, missing_room
from deploy.ray.processes import DeploymentPlan, lacking_cpus, plan_deployments
from deploy.ray.progress import Progress, failure_of
from deploy.ray.registry import Member
from deploy.ray.spread import shared_nodes
from deploy.ray.turn import own_turn
from deploy.state import (
    ClusterState,
    ProcessState,
    forget_empty,
    paths_of,
    read_state,
    write_state,
)
from shoal.errors import LockedError, UnavailableError

Say = Callable[[str], None]

_POLL_S = 0.3


def up(
    options: RayOptions, ray_address: str | None, start_timeout_s: float, say: Say
) -> ClusterState:
    """Deploys the cluster, or rolls the one of that name to these options; returns when it serves.

    A running one keeps its numbers of replicas where the options were not given any.

    Raises:
        LockedError: a local cluster has the name, or an application that is not ours, or another
            command changes applications.
        ConfigError: doors that stand open, options that fit no index.
        ShoalError: a process could not start; what was new has been ended.
        FailedPreconditionError: it runs, and the index has another number of shards by now.
        UnavailableError: no Ray cluster, or not ready in time.
    """
    refuse_local(options.name)
    facts = index_facts(options.place)
    plans = plan_deployments(options, facts, shard_gpus(options))
    counts = {plan.part.name: plan.n_replicas for plan in plans}
    options = options.model_copy(update={"program": options.program or program_mark()})
    with connected(ray_address) as gcs:
        check_doors(options, node_hosts())
        if told := lacking_cpus(plans, cluster_cpus()):
            say(told)
        with own_turn():
            client = serve_client()
            before = applied_configs(client).get(options.name)
            config = _config(client, options, facts, counts, before)
            apply(client, config)
        counts = {name: b.least for name in counts if (b := bounds_of(config, name))}
        until_s = time.monotonic() + start_timeout_s
        try:
            room = _Room(client=client, gcs=gcs, options=options, plans=plans)
            _until_running(room, counts, until_s, say)
            roll = await_serving(options, facts, until_s)
            placed = [(member.part.name, member.node) for member in roll.members]
            if told := shared_nodes(placed, len(node_hosts())):
                say(told)
        except BaseException:  # Ctrl-C too: what isn't ready must not stay
            if before is None:
                _delete(options.name)
            raise
        return remember(options, facts.name, gcs, roll)


def refuse_local(name: str) -> None:
    """LockedError where a local cluster has the name."""
    state = read_state(name)
    if state is not None and state.on == "local" and state.alive:
        raise LockedError(
            f"cluster {name!r} is running locally, pid {state.pid}; end it with 'shoal "
            f"down --name {name}', or choose another --name"
        )


def _config(
    client: Any,
    options: RayOptions,
    facts: IndexFacts,
    counts: Mapping[str, int],
    before: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """What to apply, where `before` is what runs, if it does."""
    config = app_config(options, counts, own_runtime_env())
    if before is None:
        return config
    if not is_ours(before):
        raise LockedError(f"an application {options.name!r} runs on this Ray cluster, and is "
                          "none of Shoal's; choose another --name")  # fmt: skip
    running = client.get_serve_details()["applications"][options.name]["deployments"]
    refuse_other_shards(options.name, running, facts.n_shards)
    return kept(config, before, options.model_fields_set)


def down(state: ClusterState, say: Say) -> bool:
    """Ends the application and forgets it; returns whether it was running.

    Serve itself ends with its last application. A Ray cluster whose GCS is gone can be told
    nothing: what its nodes still run ends with them.
    """
    was_running = False
    try:
        with connected(state.ray_address):
            was_running = state.name in serve_statuses()
            _delete(state.name)
    except UnavailableError:
        say(
            f"Ray does not answer at {state.ray_address}: cluster {state.name!r} is forgotten "
            "here, and what is left of it ends with 'ray stop' on each node"
        )
    paths = paths_of(state.name)
    paths.internal_token.unlink(missing_ok=True)
    paths.state.unlink(missing_ok=True)
    forget_empty(paths)
    return was_running


def _delete(name: str) -> None:
    with own_turn():
        serve_client().delete_apps([name], blocking=True)
        if not set(serve_statuses()) - {name}:
            end_serve()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Room:
    """Asks Serve and Ray whether what starts has a node to run on."""

    client: Any
    gcs: str
    options: RayOptions
    plans: tuple[DeploymentPlan, ...]

    def missing(self) -> str:
        """What the nodes lack, in words; "" where nothing waits for room."""
        if not has_pending_demands(self.gcs):
            return ""
        told = self.client.get_serve_details()["applications"][self.options.name]["deployments"]
        nodes_of = {
            name: [replica.get("node_id") for replica in deployment["replicas"]
                   if replica["state"] == "STARTING" or replica.get("node_id")]
            for name, deployment in told.items()
        }  # fmt: skip
        return missing_room(self.plans, nodes_of, free_resources(), self.options.port)


def _until_running(room: _Room, counts: Mapping[str, int], until_s: float, say: Say) -> None:
    progress, waiting = Progress(counts=counts), Waiting()
    while True:
        status = serve_statuses().get(room.options.name)
        if status is not None:
            progress, lines = progress.seen(status)
            for line in lines:
                say(line)
            if status.status == "RUNNING" and progress.whole:
                return
            if failure := failure_of(status):
                raise failure
            waiting, line = waiting.seen(room.missing(), time.monotonic())
            if line:
                say(line)
        if time.monotonic() > until_s:
            lacks = "; ".join(filter(None, (progress.missing, waiting.missing)))
            raise UnavailableError(f"the cluster did not start in time: {lacks}")
        time.sleep(_POLL_S)


def remember(options: RayOptions, index: str, gcs: str, roll: Roll) -> ClusterState:
    """Writes what this machine remembers of the cluster, its token included, and returns it.

    `index` is the name of the index that it serves, `gcs` where Ray is asked.
    """
    paths = paths_of(options.name)
    paths.state.parent.mkdir(parents=True, exist_ok=True)
    if options.tokens is not None:
        paths.folder.mkdir(exist_ok=True)
        write_token(paths.internal_token, roll.told.token)
    state = ClusterState(
        name=options.name,
        pid=0,
        started=0,
        phase="ready",
        target=roll.target,
        index_dir=str(options.place.folder),
        index=index,
        version=roll.version,
        processes=tuple(process_of(member) for member in roll.members),
        index_url=options.place.url,
        tls_certificate=str(options.tls_certificate or ""),
        tls_key=str(options.tls_key or ""),
        internal_token=str(paths.internal_token) if options.tokens else "",
        on="ray",
        ray_address=gcs,
        tls_ca=str(options.tls_ca or ""),
    )
    write_state(paths, state)
    return state


def process_of(member: Member) -> ProcessState:
    """A replica as a cluster's state has its processes; pids are its node's."""
    return ProcessState(
        name=f"{member.part.name}.{member.replica}",
        role=member.part.role,
        pid=member.pid,
        started=0,
        address=member.address,
        n_restarts=member.n_restarts,
        log=member.log,
    )
