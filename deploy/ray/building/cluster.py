"""Joining the Ray cluster that is running, quietly.

Rule: none is started here. A build that is killed leaves nothing behind but Ray's own: its actors
and tasks end with the process that asked for them.
"""

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import ray
import ray.data
import ray.util

from deploy.ray.building.placement import Node
from shoal.child_environment import import_environment
from shoal.errors import ConfigError, UnavailableError

_CONNECT_S = 3.0
_NO_PROGRESS_S = 1_800.0
"""Without one chunk done, before a build gives up: Ray would begin a chunk that kills its encoder
again and again."""
_QUIET = {
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # Ray warns where it isn't said
    "RAY_BACKEND_LOG_LEVEL": "fatal",  # of this process alone; what matters is raised as well
}
_SILENT = logging.CRITICAL + 1


@contextmanager
def joined(ray_address: str | None) -> Iterator[None]:
    """A driver of the cluster at HOST:PORT; None is RAY_ADDRESS, else the one on this machine.

    Raises:
        UnavailableError: there is none, or it doesn't answer.
        ConfigError: an address of Ray's client, whose drivers run elsewhere.
    """
    address = ray_address or os.environ.get("RAY_ADDRESS") or "auto"
    if "://" in address:
        raise ConfigError(
            f"--ray-address must be HOST:PORT of the cluster's GCS, not {address!r}; from outside "
            "the cluster, submit a job: ray job submit -- shoal index build --on ray ..."
        )
    if address != "auto":
        _check_reachable(address)
    os.environ.update(_QUIET)
    try:
        with _no_stderr():  # Ray's C++ would say there that it will be quiet
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, TimeoutError, RuntimeError, ValueError) as failure:
        raise _unreachable(str(failure).partition(". ")[0].partition("\n")[0]) from failure
    try:
        _set_ray_data()
        yield
    finally:
        ray.shutdown()


def worker_environment() -> dict[str, dict[str, str]]:
    """The runtime environment of actors and tasks: this Shoal, and threads that don't spin."""
    return {"env_vars": {"OMP_WAIT_POLICY": "PASSIVE", **import_environment()}}


def nodes_alive() -> list[Node]:
    """The cluster's nodes, by their CPUs and GPUs in all, taken or not."""
    nodes = ray.nodes()  # type: ignore[no-untyped-call]  # Ray's own
    return [
        Node(n_cpus=of.get("CPU", 0.0), n_gpus=of.get("GPU", 0.0))
        for of in (node["Resources"] for node in nodes if node["Alive"])
    ]


def this_node() -> str:
    """The IP address of the node that this runs on, for errors."""
    return str(ray.util.get_node_ip_address())  # type: ignore[no-untyped-call]  # Ray's own


def free_resources() -> tuple[float, float]:
    """CPUs and GPUs that nobody in the cluster has now."""
    free = ray.available_resources()  # type: ignore[no-untyped-call]  # Ray's own
    return free.get("CPU", 0.0), free.get("GPU", 0.0)


def _set_ray_data() -> None:
    """Its own progress and log lines would mix with ours; its log files keep them."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.raise_original_map_exception = True
    context.execution_no_progress_timeout_s = _NO_PROGRESS_S
    for handler in logging.getLogger("ray.data").handlers:
        if isinstance(handler, logging.StreamHandler):
            handler.setLevel(_SILENT)


@contextmanager
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
