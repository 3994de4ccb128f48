"""The versions that a shard process can search: opened beside each other, closed when unused.

Rule: the table of versions is one immutable value, replaced whole; a call holds the version it
uses, and a released version is closed only when its last holder is gone. A load whose caller left
goes on until it is done or released, and is the only one. Must not know the wire.
"""

import asyncio
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import MappingProxyType

from shard_server.devices import Backend, choose_device, count_gpus, open_backend
from shard_server.index import ShardIndex
from shard_server.memory import give_back
from shard_server.opening import read_aside
from shard_server.search_thread import SearchThread
from shard_server.source import IndexSource
from shoal.errors import (
    ConfigError,
    FailedPreconditionError,
    IndexFormatError,
    NotFoundError,
    UnavailableError,
)
from shoal.formats.manifest import Manifest
from shoal.index_name import refuse_unlawful

logger = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class Held:
    """An open version and the number of calls that use it."""

    index: ShardIndex
    n_users: int = 0
    unused: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.unused.set()


@dataclass(frozen=True, slots=True)
class Loading:
    """The one load under way; it holds the lock, whoever waits for it."""

    version: int
    task: "asyncio.Task[ShardIndex]"


class Versions:
    """Opens and closes versions of one shard.

    Args:
        source: where versions come from.
        shard: the shard's number.
        device: "auto", "cpu", "cuda" or "cuda:N"; settled by the first version.
        gpu_temp_bytes: GPU memory for intermediate results.
        thread: the search thread, which owns the device.
    """

    def __init__(
        self,
        source: IndexSource,
        shard: int,
        *,
        device: str,
        gpu_temp_bytes: int,
        thread: SearchThread,
    ) -> None:
        self.shard = shard
        self._source = source
        self._device = device
        self._gpu_temp_bytes = gpu_temp_bytes
        self._thread = thread
        self._backend: Backend | None = None
        self._held: Mapping[int, Held] = MappingProxyType({})
        self._retired: tuple[Held, ...] = ()
        self._changing = asyncio.Lock()
        self._loading: Loading | None = None

    @property
    def open_indexes(self) -> tuple[ShardIndex, ...]:
        """What can be searched, oldest version first."""
        held = self._held  # once: other threads ask too, and it may be replaced meanwhile
        return tuple(held[version].index for version in sorted(held))

    @contextmanager
    def hold(self, name: str, version: int) -> Iterator[ShardIndex]:
        """The open index of that name and version, kept open inside the block.

        Raises:
            NotFoundError: another index is served here.
            FailedPreconditionError: the version is not loaded; reason WRONG_VERSION.
        """
        self.check_name(name)
        held = self._held.get(version)
        if held is None:
            raise FailedPreconditionError(
                f"version {version} is not loaded on shard {self.shard}; loaded are "
                f"{sorted(self._held) or 'none'}",
                reason="WRONG_VERSION",
            )
        held.n_users += 1
        held.unused.clear()
        try:
            yield held.index
        finally:
            held.n_users -= 1
            if not held.n_users:
                held.unused.set()

    def check_name(self, name: str) -> None:
        """Raise NotFoundError for an index that is not served here; empty means the one that is.

        What can't be an index's name is InvalidArgumentError.
        """
        refuse_unlawful(name)
        served = {held.index.manifest.name for held in self._held.values()}
        if name and served and name not in served:
            raise NotFoundError(f"index {name!r} is not served here; {', '.join(served)} is")

    async def open_first(self, version: int | None) -> ShardIndex:
        """Open the version to start with; None is the one that CURRENT names.

        Raises:
            IndexFormatError, ConfigError: it can't be served; the process should end.
        """
        async with self._changing:
            try:
                manifest = await self._source.manifest(version)
            except NotFoundError as failure:  # here it is the process's setting that is wrong
                raise ConfigError(failure.message) from failure
            device = choose_device(self._device, n_gpus=count_gpus(), devices=manifest.devices)
            self._backend = open_backend(device, temp_bytes=self._gpu_temp_bytes)
            return await self._open(manifest, self._backend)

    async def load(self, name: str, version: int) -> ShardIndex:
        """Open another version; one that is open already is returned as it is.

        The load goes on where its caller leaves, and one that comes again waits for the same. One
        of another version begins when it is done.

        Raises:
            NotFoundError: no such index or version.
            FailedPreconditionError: the version does not verify or does not fit what is served.
            UnavailableError: it was released while it was loaded.
        """
        self.check_name(name)
        while (loading := self._loading) is not None and loading.version != version:
            await asyncio.wait({loading.task})
        if loading is None:
            task = asyncio.get_running_loop().create_task(self._load(version))
            loading = self._loading = Loading(version, task)
            task.add_done_callback(self._loaded)
        try:
            return await asyncio.shield(loading.task)
        except asyncio.CancelledError:
            if not loading.task.cancelled():
                raise  # it is the caller who left
            raise UnavailableError(f"version {version} was released while it was loaded") from None

    def _loaded(self, task: "asyncio.Task[ShardIndex]") -> None:
        self._loading = None
        if not task.cancelled() and (failure := task.exception()) is not None:
            # its caller may have left; as text, or who keeps the record keeps every frame of it
            logger.warning("no version was loaded: %s", str(failure))

    async def _end_loading(self) -> None:
        if (loading := self._loading) is not None:
            loading.task.cancel()
            await asyncio.wait({loading.task})

    async def _load(self, version: int) -> ShardIndex:
        async with self._changing:
            await self._close_unused()
            if (held := self._held.get(version)) is not None:
                return held.index
            if self._backend is None:
                raise FailedPreconditionError("the first version is still being opened")
            try:
                manifest = await self._source.manifest(version)
                self._check_fits(manifest, self._backend)
                return await self._open(manifest, self._backend)
            except (IndexFormatError, ConfigError) as failure:
                raise FailedPreconditionError(
                    f"version {version} can't be served: {failure.message}"
                ) from failure

    async def release(self, name: str, version: int) -> None:
        """Close a version once its last search is done; one that is not open is closed already, and
        one that is being loaded will not be.

        Raises:
            FailedPreconditionError: it is the only one.
        """
        self.check_name(name)
        if self._loading is not None and self._loading.version == version:
            await self._end_loading()
        async with self._changing:
            held = self._held.get(version)
            if held is None:
                await self._close_unused()
                return
            if len(self._held) == 1:
                raise FailedPreconditionError(
                    f"version {version} is the only one loaded; load another before releasing it"
                )
            rest = {number: other for number, other in self._held.items() if number != version}
            self._held = MappingProxyType(rest)
            self._retired = (*self._retired, held)
        # If the caller leaves while this waits, the next load or the process's end closes it.
        await held.unused.wait()
        async with self._changing:
            await self._close_unused()

    async def close(self) -> None:
        """Close everything, after the last call; a load under way is ended."""
        await self._end_loading()
        async with self._changing:
            self._retired = (*self._retired, *self._held.values())
            self._held = MappingProxyType({})
            await self._close_unused()

    async def _open(self, manifest: Manifest, backend: Backend) -> ShardIndex:
        files = await self._source.bring(manifest, self.shard)
        data = await read_aside(files, manifest, self.shard)

        def load() -> ShardIndex:
            own = backend.another()
            index = ShardIndex.place(manifest, self.shard, data, own)
            index.warm_up()
            own.hand_over()
            return index

        # what a GPU copies and compiles takes seconds, in which the old version goes on serving
        aside = asyncio.to_thread if backend.loads_aside else self._thread.own
        placing = asyncio.ensure_future(aside(load))
        try:
            index = await asyncio.shield(placing)
        except asyncio.CancelledError:
            await asyncio.wait({placing})
            if placing.exception() is None:  # what a device holds is closed as all of it is
                self._retired = (*self._retired, Held(placing.result()))
            raise
        self._held = MappingProxyType({**self._held, manifest.version: Held(index)})
        return index

    def _check_fits(self, manifest: Manifest, backend: Backend) -> None:
        for held in self._held.values():
            served = held.index.manifest
            if (manifest.name, len(manifest.shards)) != (served.name, len(served.shards)):
                raise FailedPreconditionError(
                    f"version {manifest.version} is {manifest.name} in {len(manifest.shards)} "
                    f"shards; served is {served.name} in {len(served.shards)}: start anew with it"
                )
        choose_device(backend.name, n_gpus=count_gpus(), devices=manifest.devices)

    async def _close_unused(self) -> None:
        unused = tuple(held for held in self._retired if not held.n_users)
        self._retired = tuple(held for held in self._retired if held.n_users)
        for held in unused:
            await self._thread.own(held.index.close)
        if unused:
            await asyncio.to_thread(give_back)
