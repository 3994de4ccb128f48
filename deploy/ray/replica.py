"""The Serve replica around one child process: Serve's hooks, and nothing else.

Serve awaits the constructor before it calls a replica running, `check_health` every 2 s (three
faults in a row replace it), and `__del__` when it is to stop.
"""

import asyncio
from collections.abc import Sequence
from typing import Any

import ray
from ray import serve
from ray.serve.handle import DeploymentHandle
from ray.util import get_node_ip_address

from deploy.plan import IndexFacts
from deploy.ray.options import RayOptions
from deploy.ray.registry import Beat, Part, Told
from deploy.ray.supervisor import Here, Supervisor
from deploy.ray.wire import Wire, to_wire, told_of
from shoal.errors import UnavailableError

_BEAT_TIMEOUT_S = 0.9


class Replica:
    """One replica of a shard, of the encoder or of the router."""

    async def __init__(  # type: ignore[misc]  # Serve awaits it
        self,
        part: Part,
        options: RayOptions,
        index: IndexFacts,
        directory: DeploymentHandle[Any],
        others: Sequence[DeploymentHandle[Any]] = (),  # noqa: ARG002 -- makes them part of the application
    ) -> None:
        """Returns when the child serves."""
        self._directory = directory
        here = Here(
            replica=serve.get_replica_context().replica_id.unique_id,
            node=ray.get_runtime_context().get_node_id(),
            host=options.host or str(get_node_ip_address()),  # type: ignore[no-untyped-call]
        )
        self._supervisor = Supervisor(part, options, index, here, self._ask)
        await self._supervisor.start()

    async def check_health(self) -> None:
        """Raises where the replica is to be replaced."""
        self._supervisor.check()

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """What the autoscaling policy is told, once a second, where Serve asks for it."""
        return self._supervisor.stats

    async def __del__(self) -> None:
        """Drains; Serve awaits it."""
        await self._supervisor.stop()

    async def _ask(self, beat: Beat) -> Told:
        try:
            async with asyncio.timeout(_BEAT_TIMEOUT_S):
                told: Wire = await self._directory.heartbeat.remote(to_wire(beat))
        except Exception as failure:
            raise UnavailableError(f"{type(failure).__name__}: {failure}") from failure
        return told_of(told)
