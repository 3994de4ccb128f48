"""The command's connection to a running Ray cluster, and to Serve in it."""

import contextlib
import logging
import os
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deploy.interrupts import ended_as_by_ctrl_c
from shoal.errors import ConfigError, UnavailableError

if TYPE_CHECKING:
    from ray.serve.schema import ApplicationStatusOverview

_CONNECT_S = 3.0
_QUIET = {
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # Ray warns where it isn't said
    "RAY_BACKEND_LOG_LEVEL": "fatal",  # of this process alone; what matters is raised as well
}


@contextlib.contextmanager
def connected(ray_address: str | None) -> Iterator[str]:
    """Connects to the Ray cluster at HOST:PORT, None being this machine's (or RAY_ADDRESS').

    Yields the address of its GCS; Ray's own lines don't reach the terminal.

    Raises:
        ConfigError: an address of Ray's client, whose commands run elsewhere.
        UnavailableError: no cluster there.
    """
    import ray  # noqa: PLC0415 -- `shoal --help` does without it

    address = ray_address or os.environ.get("RAY_ADDRESS") or "auto"
    if "://" in address:
        raise ConfigError(
            f"--ray-address must be HOST:PORT of the cluster's GCS, not {address!r}; from outside "
            "the cluster, submit a job: ray job submit -- shoal ... --on ray"
        )
    if address != "auto":
        _check_reachable(address)
    # Serve sets its logger's level again when it starts
    logging.getLogger("ray.serve").addFilter(lambda record: record.levelno >= logging.ERROR)
    os.environ.update(_QUIET)
    try:
        with _no_stderr():  # Ray's C++ would say there that it will be quiet
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, TimeoutError, RuntimeError, ValueError) as failure:
        raise _unreachable(str(failure).partition(". ")[0].partition("\n")[0]) from failure
    try:
        with ended_as_by_ctrl_c():  # Ray's own handler writes its stack and ends the process
            yield str(ray.get_runtime_context().gcs_address)
    finally:
        ray.shutdown()


def serve_client() -> Any:
    """Serve's client, with Serve started where it wasn't: without its HTTP and gRPC proxies."""
    from ray import serve  # noqa: PLC0415 -- as above
    from ray.serve.context import _get_global_client  # noqa: PLC0415 -- the declarative API

    serve.start(proxy_location="Disabled")
    return _get_global_client()


def end_serve() -> None:
    """Ends Serve, with what runs in it."""
    from ray import serve  # noqa: PLC0415 -- as above

    serve.shutdown()  # type: ignore[no-untyped-call]


def serve_statuses() -> "Mapping[str, ApplicationStatusOverview]":
    """What Serve says of its applications, by name."""
    from ray import serve  # noqa: PLC0415 -- as above

    return serve.status().applications


def node_hosts() -> list[str]:
    """The addresses that Ray gives its live nodes."""
    import ray  # noqa: PLC0415 -- as above

    nodes = ray.nodes()  # type: ignore[no-untyped-call]
    return [str(node["NodeManagerAddress"]) for node in nodes if node["Alive"]]


def cluster_cpus() -> float:
    """The CPUs of the Ray cluster's live nodes, used or not."""
    import ray  # noqa: PLC0415 -- as above

    resources = ray.cluster_resources()  # type: ignore[no-untyped-call]
    return float(resources.get("CPU", 0))


def live_nodes() -> list[tuple[str, str, dict[str, float]]]:
    """Each live node's id, address and resources (CPU, GPU, memory in bytes), by address."""
    import ray  # noqa: PLC0415 -- as above

    nodes = ray.nodes()  # type: ignore[no-untyped-call]
    told = [
        (str(node["NodeID"]), str(node["NodeManagerAddress"]), dict(node["Resources"]))
        for node in nodes
        if node["Alive"]
    ]
    return sorted(told, key=lambda node: node[1])


def free_resources() -> dict[str, dict[str, float]]:
    """What each live node has left, by its id."""
    # what Serve itself places by; the public function adds all nodes up
    from ray._private.state import available_resources_per_node  # noqa: PLC0415 -- as above

    free = available_resources_per_node()  # type: ignore[no-untyped-call]
    return {str(node): dict(left) for node, left in free.items()}


def has_pending_demands(gcs: str) -> bool:
    """Whether Ray waits for room for anything, by the GCS at this address.

    An actor whose worker process merely takes long to start has its room already.
    """
    from ray._raylet import GcsClient  # type: ignore[attr-defined]  # noqa: PLC0415
    from ray.autoscaler.v2.sdk import get_cluster_resource_state  # noqa: PLC0415 -- as above

    # what Ray's autoscaler asks; the state API has tasks and actors, and no demands
    state = get_cluster_resource_state(GcsClient(address=gcs))
    return bool(state.pending_resource_requests)


def own_runtime_env() -> dict[str, Any]:
    """The runtime environment of the Ray job that this process is; empty outside of one."""
    import ray  # noqa: PLC0415 -- as above

    return dict(ray.get_runtime_context().runtime_env)


def _check_reachable(address: str) -> None:
    """Asks the port first: Ray itself waits long for a cluster that is gone."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_S).close()
    except (OSError, ValueError) as failure:
        raise _unreachable(f"{address}: {failure}") from failure


def _unreachable(why: str) -> UnavailableError:
    return UnavailableError(
        f"no Ray cluster is to be reached ({why}); start one with 'ray start --head', or name one "
        "with --ray-address"
    )


@contextlib.contextmanager
def _no_stderr() -> Iterator[None]:
    """What C++ writes to the descriptor is lost; Python's errors are raised and told later."""
    kept = os.dup(2)
    try:
        with Path(os.devnull).open("wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
            yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
