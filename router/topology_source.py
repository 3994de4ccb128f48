"""Where a router learns who serves what: what every source of a topology answers.

A file, leases and DNS are sources. The registry follows one without knowing which: it waits for
`changed`, and takes what `read` says as a whole.
"""

from typing import Protocol

from router.topology import Topology


class TopologySource(Protocol):
    """One source; used by one event loop."""

    @property
    def learning(self) -> str:
        """Why an index that `read` doesn't name may exist all the same; empty where it can't."""
        ...

    async def read(self) -> Topology:
        """Who should serve what now. Raises ConfigError where that can't be told."""
        ...

    async def changed(self) -> None:
        """Returns when `read` or `learning` may say something else; never at once.

        Raises:
            OSError, ConfigError: it can't be told; asked again, it waits again.
        """
        ...

    async def record(self, index: str, old: int, new: int) -> None:
        """Says version `new` of `index` from now on, where it said `old`.

        Raises:
            ConfigError: it doesn't say version `old` of `index`, or can't be read.
            StorageError: it can't be written.
        """
        ...

    def is_agreed(self, index: str, version: int) -> bool:
        """Whether whoever starts replicas and other routers of the index knows this version."""
        ...
