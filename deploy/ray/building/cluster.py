"""Joining the Ray cluster that is running, quietly.

Rule: none is started here. A build that is killed leaves nothing behind but Ray's own: its actors
and tasks end with the process that asked for them.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import ray
import ray.data
import ray.util

from deploy.ray.building.placement import Node
from deploy.ray.connection import connected
from shoal.child_environment import import_environment

_NO_PROGRESS_S = 1_800.0
"""Without one chunk done, before a build gives up: Ray would begin a chunk that kills its encoder
again and again."""
_SILENT = logging.CRITICAL + 1


@contextmanager
def joined(ray_address: str | None) -> Iterator[None]:
    """A driver of the cluster at HOST:PORT, as `connection.connected`, whose Ray Data is quiet."""
    with connected(ray_address):
        _set_ray_data()
        yield


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
