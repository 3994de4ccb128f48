"""A topology file whose addresses may be names of many processes, as Kubernetes' services are.

`dns:HOST:PORT` means every address that HOST has now, of one family, each with PORT. Rules: names
are looked up again every few seconds; one that can't be looked up keeps the addresses it had, for a
resolver that fails says nothing of the processes. `dns:///HOST:PORT` is gRPC's own and stays one
replica.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence

from router.file_source import FileSource
from router.system_resolver import SystemResolver
from router.topology import Topology
from shoal.target import host_port, target_fault

logger = logging.getLogger(__name__)

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""The addresses of a host, without the port. Raises OSError."""

_LOOKUP_TIMEOUT_S = 2.0
_SCHEME = "dns:"


class DnsSource:
    """Follows a file, and the names in it."""

    learning = ""
    """A file says everything."""

    def __init__(self, file: FileSource, *, every_s: float, resolve: Resolve | None = None) -> None:
        """`every_s`: seconds between two look-ups; `resolve`: instead of the system's resolver."""
        self._file = file
        self._every_s = every_s
        self._resolve = resolve or SystemResolver()
        self._known: dict[str, tuple[str, ...]] = {}
        self._failing: set[str] = set()
        self._written = Topology(format=1)
        self._told: Topology | None = None
        self._next_s = 0.0

    async def read(self) -> Topology:
        """The file's content with the addresses in place of the names. Raises ConfigError."""
        self._written = await self._file.read()
        if names_in(self._written) - self._known.keys():
            await self._look_up_all()
        self._told = expanded(self._written, self._known)
        return self._told

    async def changed(self) -> None:
        """Returns when the file is another, or a name has other addresses. Raises OSError."""
        while not await self._file.look():
            if names_in(self._written) and time.monotonic() >= self._next_s:
                await self._look_up_all()
                if expanded(self._written, self._known) != self._told:
                    return

    async def record(self, index: str, old: int, new: int) -> None:
        """As the file's; the names stay names."""
        await self._file.record(index, old, new)

    def is_agreed(self, index: str, version: int) -> bool:
        """As the file's."""
        return self._file.is_agreed(index, version)

    async def _look_up_all(self) -> None:
        names = sorted(names_in(self._written))
        found = await asyncio.gather(*(self._addresses_of(name) for name in names))
        self._known = {name: f for name, f in zip(names, found, strict=True) if f is not None}
        self._next_s = time.monotonic() + self._every_s

    async def _addresses_of(self, name: str) -> tuple[str, ...] | None:
        """What the name stands for now, or did last; None where it was never known."""
        host, _, port = name.removeprefix(_SCHEME).rpartition(":")
        try:
            async with asyncio.timeout(_LOOKUP_TIMEOUT_S):
                hosts = await self._resolve(host, int(port))
        except (OSError, UnicodeError) as failure:  # TimeoutError is an OSError
            if name not in self._failing:
                logger.warning("%s keeps the addresses it had: %s", name, failure or "no answer")
            self._failing.add(name)
            return self._known.get(name)
        self._failing.discard(name)
        return tuple(sorted({host_port(h, port) for h in hosts}))


def is_name(address: str) -> bool:
    """Whether it stands for many: `dns:HOST:PORT`."""
    rest = address.removeprefix(_SCHEME)
    return rest != address and not rest.startswith("/") and not target_fault(rest)


def names_in(topology: Topology) -> set[str]:
    """The names that a topology has in place of addresses. Pure."""
    shards = (a for index in topology.indexes for replicas in index.shards for a in replicas)
    return {address for address in (*shards, *topology.encoders) if is_name(address)}


def expanded(topology: Topology, known: Mapping[str, tuple[str, ...]]) -> Topology:
    """The topology with addresses in place of names; a name that is not known has none. Pure."""

    def addresses(written: Sequence[str]) -> tuple[str, ...]:
        meant = (known.get(a, ()) if is_name(a) else (a,) for a in written)
        return tuple(dict.fromkeys(address for each in meant for address in each))

    indexes = tuple(
        index.model_copy(update={"shards": tuple(addresses(shard) for shard in index.shards)})
        for index in topology.indexes
    )
    return topology.model_copy(
        update={"indexes": indexes, "encoders": addresses(topology.encoders)}
    )
