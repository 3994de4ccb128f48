"""Leases as a source of the topology: what was announced to this router, kept in memory.

The table (`leases`) has the rules; this gives it the time and says when it changed.
"""

import asyncio
import logging
import time
from collections.abc import Callable

from router.leases import LeaseTable
from router.roles import Announcement
from router.topology import Topology

logger = logging.getLogger(__name__)

_LOOK_S = 0.1
_LEARNING = (
    "this router was just started and has not heard of every index yet; try again in a few seconds"
)
_ALONE = "no shard server has announced itself to this router yet; try again in a few seconds"
_ALONE_S = 10.0
"""How long that may last before it is logged: a router is heard of within a second or two."""


class LeaseSource:
    """Follows announcements."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._table = LeaseTable()
        self._told = self._mark()
        self._n_overdue = 0
        self._said_alone = False

    @property
    def learning(self) -> str:
        """Why an index may exist that was not announced; for some seconds after the first was."""
        if self._table.begun_s is None:
            return _ALONE
        return _LEARNING if self._table.is_learning else ""

    async def read(self) -> Topology:
        """What is announced now."""
        self._told = self._mark()
        return self._table.topology()

    async def changed(self) -> None:
        """Looks at the leases ten times a second; returns when that changed what is announced."""
        while True:
            await asyncio.sleep(_LOOK_S)
            self._put(self._table.at(self._clock()))
            if self.is_changed:
                return

    async def record(self, index: str, old: int, new: int) -> None:
        """In memory alone: who announces says the version to routers that start later.

        Raises:
            ConfigError: version `old` of `index` is not what is announced.
        """
        self._put(self._table.moved(index, old, new))

    def announce(self, told: Announcement) -> None:
        """Believes it. Raises FailedPreconditionError, as the table."""
        self._put(self._table.announced(told, self._clock()))

    def leave(self, address: str) -> None:
        """Forgets it."""
        self._put(self._table.left(address, self._clock()))

    @property
    def is_changed(self) -> bool:
        """Whether `read` would say something else than it did."""
        return self._mark() != self._told

    def agreed_version(self, index: str) -> int | None:
        """The version that all who announce this index say; None where they differ."""
        return self._table.agreed_version(index)

    def is_agreed(self, index: str, version: int) -> bool:
        """Whether all who announce this index say this version."""
        return self._table.agreed_version(index) == version

    def _mark(self) -> tuple[int, bool]:
        return self._table.n_changes, self._table.is_learning

    def _put(self, table: LeaseTable) -> None:
        before, self._table = self._table.leases, table
        if before.keys() != table.leases.keys():
            for address in sorted(table.leases.keys() - before.keys()):
                logger.info("%s announces itself as %s", address, table.leases[address].role)
            for address in sorted(before.keys() - table.leases.keys()):
                logger.info("%s is no longer announced", address)
        if table.begun_s is None and table.clock_s >= _ALONE_S and not self._said_alone:
            self._said_alone = True
            logger.warning(
                "no shard server has announced itself here in %.0f s: are they told this router's "
                "address?", table.clock_s,
            )  # fmt: skip
        n_overdue = table.n_overdue
        if n_overdue > self._n_overdue:
            logger.warning(
                "%d of %d leases have ended and are kept: nobody else is heard, or nobody else "
                "serves the same; checks decide who is asked", n_overdue, len(table.leases)
            )  # fmt: skip
        self._n_overdue = n_overdue
