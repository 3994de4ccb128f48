"""When calls are due: constant and Poisson arrivals, ramps, steps. Pure; knows no clock.

Rules:
1. A schedule is fixed before the run by its rates and its seed; no answer can move it.
2. Several workers share one schedule: worker w of W takes the arrivals w, w + W, w + 2 W, ..., so
   that together they send what one would have sent.
"""

import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Literal

from shoal.errors import InvalidArgumentError

Arrivals = Literal["constant", "poisson"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One stretch of load. Exactly one of `rate` (open loop) and `clients` (closed loop) is set.

    Attributes:
        rate: calls a second, sent when they are due whatever the answers do.
        to_rate: the rate at the end, where it changes evenly over `duration_s`.
        clients: callers, each of whom sends when it was answered.
        arrivals: evenly spaced, or as independent callers come.
        warmup_s: seconds before, at the first rate, which are left out of the figures.
        duration_s: seconds measured.
    """

    rate: float | None = None
    to_rate: float | None = None
    clients: int | None = None
    arrivals: Arrivals = "constant"
    warmup_s: float = 2.0
    duration_s: float = 10.0

    def __post_init__(self) -> None:
        if (self.rate is None) == (self.clients is None):
            raise InvalidArgumentError("give a rate or a number of clients, one of them")
        if self.to_rate is not None and self.rate is None:
            raise InvalidArgumentError("a ramp goes from a rate to a rate", field="to_rate")
        if self.arrivals not in {"constant", "poisson"}:
            raise InvalidArgumentError(
                f"arrivals are constant or poisson, not {self.arrivals!r}", field="arrivals"
            )
        for name in ("rate", "to_rate", "clients", "duration_s"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise InvalidArgumentError(f"{name} is {value}; it must be above 0", field=name)
        if not 0 <= self.warmup_s < math.inf:
            raise InvalidArgumentError(
                f"warmup_s is {self.warmup_s}; it must be 0 or more", field="warmup_s"
            )

    @property
    def total_s(self) -> float:
        """Warm-up and measured time."""
        return self.warmup_s + self.duration_s

    @property
    def label(self) -> str:
        """The load in a few words: "100/s", "100/s to 400/s", "8 clients"."""
        if self.rate is None:
            return f"{self.clients} client" + "s" * (self.clients != 1)
        label = f"{self.rate:g}/s"
        return label if self.to_rate is None else f"{label} to {self.to_rate:g}/s"

    def time_of(self, position: float) -> float:
        """Seconds from the start until `position` arrivals are due: the inverse of their count."""
        assert self.rate is not None
        at_s = position / self.rate
        if self.to_rate is None or at_s <= self.warmup_s:
            return at_s
        left = position - self.rate * self.warmup_s
        slope = (self.to_rate - self.rate) / self.duration_s
        if not slope:
            return at_s
        # left = rate x + slope x^2 / 2, solved so that a slope near 0 loses no digits
        root = self.rate**2 + 2 * slope * left
        return math.inf if root < 0 else self.warmup_s + 2 * left / (self.rate + math.sqrt(root))


def due_times(stage: Stage, seed: int = 0) -> Iterator[float]:
    """When each call of an open loop is due, in seconds from the start, ascending."""
    for position in _positions(stage.arrivals, seed):
        due_s = stage.time_of(position)
        if due_s >= stage.total_s:
            return
        yield due_s


def share_of(worker: int, n_workers: int, due_s: Iterator[float]) -> Iterator[tuple[int, float]]:
    """One worker's calls of a schedule: the number of each in the whole, and when it is due."""
    return islice(enumerate(due_s), worker, None, n_workers)


def clients_of(worker: int, n_workers: int, clients: int) -> int:
    """How many of `clients` are one worker's."""
    return len(range(worker, clients, n_workers))


def parse_rates(text: str) -> list[tuple[float, float | None]]:
    """Steps and ramps: "50", "50,100,200", "50..400", as (rate, rate at the end).

    Raises:
        InvalidArgumentError: it is none of these.
    """
    return [_parse_rate(part.strip(), text) for part in text.split(",")]


def parse_clients(text: str) -> list[int]:
    """Steps of a closed loop: "64", "1,4,16,64".

    Raises:
        InvalidArgumentError: it is none of these.
    """
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise InvalidArgumentError(
            f"--clients is {text!r}; it is a number, or several as in 1,4,16", field="clients"
        ) from None


def stages_of(
    rates: Sequence[tuple[float, float | None]],
    clients: Sequence[int],
    *,
    arrivals: Arrivals,
    warmup_s: float,
    duration_s: float,
) -> list[Stage]:
    """One stage a rate, or one a number of clients; each with its own warm-up.

    Raises:
        InvalidArgumentError: rates and clients are both given, or neither.
    """
    if bool(rates) == bool(clients):
        raise InvalidArgumentError("give --rate or --clients, one of them")
    opened = [
        Stage(rate=rate, to_rate=to_rate, arrivals=arrivals, warmup_s=warmup_s,
              duration_s=duration_s)
        for rate, to_rate in rates
    ]  # fmt: skip
    closed = [Stage(clients=n, warmup_s=warmup_s, duration_s=duration_s) for n in clients]
    return opened or closed


def _parse_rate(part: str, text: str) -> tuple[float, float | None]:
    first, ramps, last = part.partition("..")
    try:
        return float(first), float(last) if ramps else None
    except ValueError:
        raise InvalidArgumentError(
            f"--rate is {text!r}; it is a number, steps as in 50,100,200, or a ramp as in 50..400",
            field="rate",
        ) from None


def _positions(arrivals: Arrivals, seed: int) -> Iterator[float]:
    """Where the arrivals fall when one is due a second: a schedule is this, stretched."""
    if arrivals == "constant":
        yield from range(1 << 62)
    position, draw = 0.0, random.Random(seed).expovariate
    while True:
        position += draw(1.0)
        yield position
