"""What stands in a simulated router for a disk, a channel, a budget and a log."""

import logging
from typing import Self

from router.budget import CallBudget
from router.topology import Topology
from shoal.errors import ConfigError


class MemoryFile:
    """A topology file without a disk."""

    def __init__(self, topology: Topology) -> None:
        self._topology = topology

    @property
    def version(self) -> int:
        """The index's."""
        return self._topology.indexes[0].version

    def changed(self) -> bool:
        """Never by another."""
        return False

    def read(self) -> Topology:
        """Its content."""
        return self._topology

    def record(self, index: str, old: int, new: int) -> None:
        """As the file's."""
        (spec,) = self._topology.indexes
        if (spec.name, spec.version) != (index, old):
            raise ConfigError("another version")
        moved = spec.model_copy(update={"version": new})
        self._topology = self._topology.model_copy(update={"indexes": (moved,)})


class CountedBudget(CallBudget):
    """A budget that remembers what it was asked."""

    def __init__(self, share: float, *, floor: int, window_s: float) -> None:
        super().__init__(share, floor=floor, window_s=window_s)
        self.share, self.floor = share, floor
        self.n_offered = self.n_granted = self.n_refused = 0

    def offer(self, n_calls: int, now_s: float) -> None:
        """As a budget, counted."""
        self.n_offered += n_calls
        super().offer(n_calls, now_s)

    def take(self, now_s: float) -> bool:
        """As a budget, counted."""
        granted = super().take(now_s)
        self.n_granted += granted
        self.n_refused += not granted
        return granted


class NoChannel:
    async def close(self) -> None:
        """Nothing is open."""


class LoggedErrors(logging.Handler):
    """Keeps what is logged as an error: a bug of ours; hides warnings, which faults bring."""

    def __init__(self, lines: list[str]) -> None:
        super().__init__(logging.ERROR)
        self._lines = lines
        self._logger = logging.getLogger("router")

    def emit(self, record: logging.LogRecord) -> None:
        cause = record.exc_info[1] if record.exc_info else None
        self._lines.append(f"{record.getMessage()}: {cause!r}")

    def __enter__(self) -> Self:
        self._before = (self._logger.level, self._logger.propagate)
        self._logger.setLevel(logging.ERROR)
        self._logger.propagate = False
        self._logger.addHandler(self)
        return self

    def __exit__(self, *_: object) -> None:
        self._logger.removeHandler(self)
        level, self._logger.propagate = self._before
        self._logger.setLevel(level)
