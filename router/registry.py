"""What this router serves now: the topology, followed, and the replicas that it names.

The state is one immutable `Served`, replaced as a whole; a search takes it once and keeps it. The
connections of replicas that a new topology still names are kept. Doesn't know where the topology
comes from.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any, Self

from router.cluster import Shared
from router.config import RouterConfig
from router.encoder_replica import EncoderReplica
from router.served import Served, ServedIndex
from router.shard_replica import ShardReplica
from router.topology import IndexTopology, IndexVersion, Topology
from router.topology_source import TopologySource
from router.users import Users
from shoal.errors import (
    ConfigError,
    FailedPreconditionError,
    InvalidArgumentError,
    StorageError,
)
from shoal.rpc import metrics
from shoal.rpc.deadline import DEFAULT_TIMEOUT_S

logger = logging.getLogger(__name__)

_LEARNING_S = 10.0
"""How long a router that learns who serves what waits for a whole index before it serves."""
_POLL_S = 0.05
_AGAIN_S = 1.0
"""How often a topology that could not be used is tried again."""

_LINGER_S = DEFAULT_TIMEOUT_S
"""How long a replica that left the topology is kept for queries that began before."""


class Registry:
    """Keeps `served` true to the topology; use as an async context manager."""

    def __init__(
        self, config: RouterConfig, source: TopologySource, *, n_active: Callable[[], int]
    ) -> None:
        """`n_active` tells the queries under way in this router."""
        self._config = config
        self._n_active = n_active
        self._source = source
        self._stack = contextlib.AsyncExitStack()
        self._shard_replicas: dict[tuple[str, str, int], ShardReplica] = {}
        self._encoder_replicas: dict[str, EncoderReplica] = {}
        self._background: set[asyncio.Task[None]] = set()
        self._complaint = ""
        self.is_behind = False
        """Whether the topology that was read last could not be used, and is to be tried again."""
        self._turning = asyncio.Lock()  # the source and `served` change together
        self.served = Served()
        self.users = Users()

    async def __aenter__(self) -> Self:
        self._tasks = await self._stack.enter_async_context(asyncio.TaskGroup())
        self._shared = Shared(config=self._config, tasks=self._tasks, n_active=self._n_active)
        try:
            self._apply(await self._source.read())
        except BaseException:
            await self._close()
            raise
        self._watcher = self._tasks.create_task(self._watch())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._watcher.cancel()
        await self._close()

    async def _close(self) -> None:
        for replica in self._replicas():
            await replica.close()
        for task in self._background:
            task.cancel()
        await self._stack.aclose()

    def start(self, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        """Runs `work`, which raises nothing, in the background; cancelled when this closes."""
        task = self._tasks.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)
        return task

    async def flip(self, index: ServedIndex, told: IndexVersion) -> None:
        """Serves version `told` of `index` from the next search on.

        The topology's source says so first, so that a router that is started again, and whoever
        starts the shards, agree.

        Raises:
            FailedPreconditionError: the topology has changed since, or can't be written.
        """
        async with self._turning:
            now = self.served.indexes.get(index.name)
            if now is None or now.version != index.version:
                raise FailedPreconditionError(f"the topology of index {index.name} changed; again")
            try:
                await self._source.record(index.name, index.version, told.version)
            except (ConfigError, StorageError) as failure:
                raise FailedPreconditionError(
                    f"version {index.version} serves on: {failure.message}"
                ) from failure
            moved = replace(now, version=told.version, known=told)
            self._serve(replace(self.served, indexes={**self.served.indexes, index.name: moved}))

    def is_agreed(self, index: str, version: int) -> bool:
        """Whether whoever starts replicas and other routers of the index knows this version."""
        return self._source.is_agreed(index, version)

    def _replicas(self) -> list[ShardReplica | EncoderReplica]:
        return [*self._shard_replicas.values(), *self._encoder_replicas.values()]

    async def ready(self) -> None:
        """Returns when every replica was asked once, whatever it answered.

        Where the source learns who serves what, first when some index has a replica of every shard
        that can be asked, or when `_LEARNING_S` are over.
        """
        if self.served.learning:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LEARNING_S):
                    await self._whole_index()
        for replica in self._replicas():
            await replica.checked.wait()

    async def _whole_index(self) -> None:
        """Returns when all indexes are known and one has a replica of each shard to ask."""
        while True:
            served = self.served
            if not served.learning and any(
                len(index.there) == len(index.shards) for index in served.indexes.values()
            ):
                return
            await asyncio.sleep(_POLL_S)

    async def follow(self) -> None:
        """Serves what the source says now, and nothing that it no longer names.

        Raises:
            ConfigError, InvalidArgumentError: it can't be read or used; what was served is.
        """
        async with self._turning:
            topology = await self._source.read()
            self.is_behind = True  # its source won't tell again that it changed
            self._apply(topology)
            self.is_behind = False
            self._retire_unnamed()
        logger.info("took the new topology")

    async def _watch(self) -> None:
        while True:
            try:
                if self.is_behind:
                    await asyncio.sleep(_AGAIN_S)
                else:
                    await self._source.changed()
                await self.follow()
                self._complaint = ""
            except (OSError, ConfigError, InvalidArgumentError) as failure:
                if str(failure) != self._complaint:
                    logger.warning("topology kept as it was: %s", failure)
                self._complaint = str(failure)

    def _apply(self, topology: Topology) -> None:
        indexes = {
            spec.name: ServedIndex(
                name=spec.name,
                version=spec.version,
                shards=tuple(
                    tuple(self._shard_replica(address, spec.name, shard) for address in addresses)
                    for shard, addresses in enumerate(spec.shards)
                ),
                known=self._known(spec),
                changes=self._shared.changes,
            )
            for spec in topology.indexes
        }
        encoders = tuple(self._encoder_replica(address) for address in topology.encoders)
        learning = self._source.learning
        self._serve(Served(indexes=indexes, encoders=encoders, learning=learning))

    def _known(self, spec: IndexTopology) -> IndexVersion | None:
        """What is known already of a version that a topology read again names as before."""
        index = self.served.indexes.get(spec.name)
        if index is None or (index.version, len(index.shards)) != (spec.version, len(spec.shards)):
            return None
        return index.known

    def _serve(self, served: Served) -> None:
        for gone in self.served.indexes.keys() - served.indexes.keys():
            metrics.INDEX_VERSION.remove(gone)
            metrics.COVERAGE.remove(gone)  # it holds the replicas
        self.served = served
        for index in served.indexes.values():
            metrics.INDEX_VERSION.labels(index.name).set(index.version)
            metrics.COVERAGE.labels(index.name).set_function(index.coverage)
            metrics.RELOAD_FAILURES.labels(index.name)  # 0 and not absent: an alarm sees the first

    def _shard_replica(self, address: str, index: str, shard: int) -> ShardReplica:
        key = (address, index, shard)
        if key not in self._shard_replicas:
            self._shard_replicas[key] = ShardReplica(*key, self._shared)
        return self._shard_replicas[key]

    def _encoder_replica(self, address: str) -> EncoderReplica:
        if address not in self._encoder_replicas:
            self._encoder_replicas[address] = EncoderReplica(address, self._shared)
        return self._encoder_replicas[address]

    def _retire_unnamed(self) -> None:
        indexes = self.served.indexes.values()
        named = {id(r) for index in indexes for replicas in index.shards for r in replicas}
        named |= {id(encoder) for encoder in self.served.encoders}
        for key, shard_replica in list(self._shard_replicas.items()):
            if id(shard_replica) not in named:
                self._start_retiring(self._shard_replicas.pop(key))
        for address, encoder_replica in list(self._encoder_replicas.items()):
            if id(encoder_replica) not in named:
                self._start_retiring(self._encoder_replicas.pop(address))

    def _start_retiring(self, replica: ShardReplica | EncoderReplica) -> None:
        replica.leave()
        self.start(_retire(replica))


async def _retire(replica: ShardReplica | EncoderReplica) -> None:
    try:
        await asyncio.sleep(_LINGER_S)
    finally:
        await replica.close()
