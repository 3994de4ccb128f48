"""Where a value lies on an axis, and which values are written beside it. Pure arithmetic."""

import math
from dataclasses import dataclass
from itertools import count
from typing import Protocol

_STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)
_NINES = (0.0, 0.5, 0.9, 0.99, 0.999, 0.9999, 0.99999)


class Scale(Protocol):
    """An axis: `place` is 0.0 at its beginning and 1.0 at its end."""

    def place(self, value: float) -> float:
        """Where a value lies."""

    def ticks(self) -> list[tuple[float, str]]:
        """The values that are written, and how."""


@dataclass(frozen=True, slots=True)
class Linear:
    """Even from `low` to `high`; `n_ticks` at most are written."""

    low: float
    high: float
    n_ticks: int = 6

    def place(self, value: float) -> float:
        """Where a value lies."""
        span = self.high - self.low
        return (value - self.low) / span if span else 0.5

    def ticks(self) -> list[tuple[float, str]]:
        """Multiples of 1, 2, 2.5 or 5 times a power of ten."""
        step = nice_step((self.high - self.low) / max(1, self.n_ticks - 1))
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        return [(i * step, plain(i * step)) for i in range(first, last + 1)]


@dataclass(frozen=True, slots=True)
class Log:
    """Even in powers of ten, from `low` above 0 to `high`."""

    low: float
    high: float

    def place(self, value: float) -> float:
        """Where a value lies; below `low` is at the beginning."""
        if value <= self.low or self.high <= self.low:
            return 0.0
        return math.log(value / self.low) / math.log(self.high / self.low)

    def ticks(self) -> list[tuple[float, str]]:
        """Powers of ten, and between them 2 and 5 where there are few."""
        powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        heads = (1, 2, 5) if len(powers) <= 4 else (1,)
        values = [head * 10.0**power for power in powers for head in heads]
        return [(v, plain(v)) for v in values if self.low * 0.999 <= v <= self.high * 1.001]


@dataclass(frozen=True, slots=True)
class Nines:
    """Shares of calls, each further nine as wide as the last: 0, 0.9, 0.99, ... up to `high`."""

    high: float

    def place(self, value: float) -> float:
        """Where a share lies."""
        return -math.log10(max(1e-9, 1 - value)) / -math.log10(max(1e-9, 1 - self.high))

    def ticks(self) -> list[tuple[float, str]]:
        """0, p50 and the nines."""
        shown = [share for share in _NINES if share <= self.high + 1e-9]
        return [(share, f"p{plain(100 * share)}" if share else "min") for share in shown]


def latency_scale(low: float, high: float) -> Scale:
    """Linear from 0 where it shows the smallest, logarithmic where it wouldn't."""
    high = high if high > 0 else 1.0
    low = low if low > 0 else high
    if high / low < 25:
        return Linear(0.0, round_up(high))
    return Log(10.0 ** math.floor(math.log10(low)), round_up(high))


def nice_step(rough: float) -> float:
    """The least of 1, 2, 2.5 and 5 times a power of ten that isn't below `rough`."""
    power = 10.0 ** math.floor(math.log10(rough)) if rough > 0 else 1.0
    return next(power * step for step in _STEPS if power * step >= rough * (1 - 1e-9))


def round_up(value: float) -> float:
    """The next value that an axis may end at."""
    step = nice_step(value / 5)
    return next(i * step for i in count(1) if i * step >= value * (1 - 1e-9))


def plain(value: float) -> str:
    """A number as people write it: "0.5", "250", "12,000"."""
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.4g}"
