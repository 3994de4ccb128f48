"""The topology file as a source: looked at four times a second, read where it was replaced.

Rule: the disk is never touched on the event loop.
"""

import asyncio

from router.topology import Topology
from router.topology_file import TopologyFile

_WATCH_S = 0.25


class FileSource:
    """Follows one file."""

    learning = ""
    """A file says everything."""

    def __init__(self, file: TopologyFile) -> None:
        self._file = file

    async def read(self) -> Topology:
        """Its content. Raises ConfigError."""
        return await asyncio.to_thread(self._file.read)

    async def changed(self) -> None:
        """Returns when it is another file than the one read last. Raises OSError."""
        while not await self.look():
            pass

    async def look(self) -> bool:
        """Whether it is, a quarter of a second from now. Raises OSError."""
        await asyncio.sleep(_WATCH_S)
        return await asyncio.to_thread(self._file.changed)

    async def record(self, index: str, old: int, new: int) -> None:
        """Writes the version into the file; so whoever starts the shards learns it too.

        Raises:
            ConfigError: it does not say version `old` of `index`, or can't be read.
            StorageError: it can't be written.
        """
        await asyncio.to_thread(self._file.record, index, old, new)

    def is_agreed(self, index: str, version: int) -> bool:
        """Always: `record` has told everybody."""
        del index, version
        return True
