"""Joining the Ray cluster that is running, quietly.

Rule: none is started here. A build that is killed leaves nothing behind but Ray's own: its actors
and tasks end with the process that asked for them.
"""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import ray
import ray.data
import ray.util

from deploy.ray.building.placement import Node
from deploy.ray.connection import connected, free_resources, live_nodes
from shoal.child_environment import import_environment

NO_PROGRESS_S = 1_800.0
"""Without one chunk done, or one task begun, before a build gives up: Ray would begin a chunk that
kills its encoder again and again, and wait for CPUs for ever."""
_SETTLE_S = 5.0
"""Ray's nodes tell within a second what they have free; longer, and it is somebody else's."""
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
    """The cluster's nodes, by their CPUs and GPUs, in all and free."""
    free = free_resources()
    return [
        Node(
            n_cpus=has.get("CPU", 0.0),
            n_gpus=has.get("GPU", 0.0),
            free_cpus=free.get(name, {}).get("CPU", 0.0),
            free_gpus=free.get(name, {}).get("GPU", 0.0),
        )
        for name, _, has in live_nodes()
    ]


def settled_nodes(
    before: Sequence[Node],
    *,
    read: Callable[[], list[Node]] = nodes_alive,
    sleep: Callable[[float], object] = time.sleep,
) -> list[Node]:
    """The nodes once they have as many CPUs free as `before`, and a few seconds on as they are.

    What this build's own encoders and tasks held is told as free only some time after they end.
    """
    wanted = sum(node.free_cpus for node in before)
    for _ in range(int(_SETTLE_S / 0.1)):
        now = read()
        if sum(node.free_cpus for node in now) >= wanted:
            return now
        sleep(0.1)
    return read()


def this_node() -> str:
    """The IP address of the node that this runs on, for errors."""
    return str(ray.util.get_node_ip_address())  # type: ignore[no-untyped-call]  # Ray's own


def _set_ray_data() -> None:
    """Its own progress and log lines would mix with ours; its log files keep them."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.raise_original_map_exception = True
    context.execution_no_progress_timeout_s = NO_PROGRESS_S
    for handler in logging.getLogger("ray.data").handlers:
        if isinstance(handler, logging.StreamHandler):
            handler.setLevel(_SILENT)
