"""What may wait and what is refused at once: the one rule of the router, the encoder and the shard.

1. Work has a cost. What is under way is counted by class, and so is how fast it goes: cost answered
   a second, measured only while there is a crowd, because a process that idles shows no capacity.
2. By Little's law (Little 1961: L = lambda W) a newcomer waits for cost ahead / rate. Where that is
   more than the bound or its own deadline, it is refused on arrival, with the time after which half
   the bound will be free. A little work is admitted whatever the wait, unless its own deadline is
   nearer than twice that: latency alone, such as that of a hung process, is no overload. As with
   CoDel (RFC 8289) the bound is a time and not a length, so it needs no tuning to the machine.
3. Interactive work looks at interactive work alone, since it goes first everywhere. Bulk waits
   behind all, at the rate that is left to it, and is let in only while interactive work fills less
   than half of its bound.
4. Only answered work counts as done (in the encoder what went through the model, a text at a
   time). Where everything comes too late, the rate falls, less is let in, and what is let in
   comes in time again.

How much memory may wait is each place's own bound, by count: cost says nothing of it. The rules are
pure, over values that are replaced; time is an argument. `Gate` holds the present value and the
clock. Knows nothing of queries, texts or gRPC.
"""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

from shoal.errors import DeadlineExceededError, OverloadedError

MEMORY_S = 1.0
"""Time constant, in seconds of crowd, over which the rate is averaged."""
KNOWN_AFTER_S = 0.2
"""Seconds of crowd before the rate is believed."""
FORGET_S = 30.0
"""Seconds without a crowd after which what was measured says nothing any more."""
LEAST_RETRY_S, MOST_RETRY_S = 0.05, 10.0
_UNKNOWN_RETRY_S = 0.5
ROWS_PER_LIST = 256
"""What brute force has instead of lists, where cost is counted in these."""
_SURE_SHARE = 0.5  # of the time left: what was promised an end at its deadline ends too late


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds of one place; costs in its own unit.

    `free_cost` under way is admitted whatever its wait, its deadline allowing; `wait_s` and
    `bulk_wait_s` are the longest predicted waits of either class. While no wait can be predicted,
    since nothing was answered yet, interactive work is let in behind `blind_cost` at most.
    """

    blind_cost: float
    free_cost: float
    wait_s: float
    bulk_wait_s: float


class Load(NamedTuple):
    """Cost under way by class, and what was answered (decaying) in how much crowded time.

    `done` is both classes' answered cost, `bulk_done` bulk's part of it. `lump` is what may be done
    and not counted, because answers come many at a time: where a crowd has just begun that is most
    of it, and interactive work gets the benefit of the doubt. A tuple, because each search replaces
    it four times, and a dataclass takes four times as long to.
    """

    interactive: float = 0.0
    bulk: float = 0.0
    done: float = 0.0
    bulk_done: float = 0.0
    crowded_s: float = 0.0
    at_s: float = -math.inf
    crowded_at_s: float = -math.inf
    lump: float = 0.0

    @property
    def wait_s(self) -> float | None:
        """How long interactive work waits, in seconds: all that is done could be its own."""
        share = max(0.0, 1.0 - self.crowded_s / MEMORY_S)
        return self._wait_s(self.interactive, self.done and self.done + self.lump * share)

    @property
    def sure_wait_s(self) -> float | None:
        """As `wait_s`, without the benefit of the doubt: bulk is the first to stay out."""
        return self._wait_s(self.interactive, self.done)

    @property
    def bulk_wait_s(self) -> float | None:
        """How long bulk work waits, in seconds, at the rate that is left to it."""
        return self._wait_s(self.bulk, self.bulk_done)

    def _wait_s(self, ahead: float, done: float) -> float | None:
        """None where nobody knows: too little was seen, or nothing answered."""
        if self.crowded_s < KNOWN_AFTER_S or not done:
            return None
        return ahead * self.crowded_s / done


def advanced(load: Load, now_s: float, limits: Limits) -> Load:
    """The load at `now_s`: nothing came or went since."""
    passed_s = max(0.0, now_s - load.at_s)
    # half of what is free: whatever the calls' sizes, that much is under way where one is refused
    if 2 * (load.interactive + load.bulk) >= limits.free_cost and load.at_s > -math.inf:
        kept = math.exp(-passed_s / MEMORY_S)
        return load._replace(
            done=load.done * kept,
            bulk_done=load.bulk_done * kept,
            crowded_s=load.crowded_s * kept + MEMORY_S * (1 - kept),
            at_s=now_s,
            crowded_at_s=now_s,
        )
    if now_s - load.crowded_at_s > FORGET_S:
        return load._replace(done=0.0, bulk_done=0.0, crowded_s=0.0, at_s=now_s)
    return load._replace(at_s=now_s)


def entered(load: Load, cost: float, *, is_bulk: bool) -> Load:
    """The load with more under way; a negative cost leaves."""
    if is_bulk:
        return load._replace(bulk=load.bulk + cost)
    return load._replace(interactive=load.interactive + cost)


def credited(load: Load, cost: float, *, is_bulk: bool, limits: Limits) -> Load:
    """The load after so much of what is under way was done; counted in a crowd alone."""
    if 2 * (load.interactive + load.bulk) < limits.free_cost:
        return load
    bulk_done = load.bulk_done + cost if is_bulk else load.bulk_done
    return load._replace(done=load.done + cost, bulk_done=bulk_done)


def refusal_s(
    load: Load, cost: float, *, is_bulk: bool, time_left_s: float, limits: Limits
) -> float | None:
    """None where work may enter; otherwise after how many seconds it had better come back.

    Args:
        load: as it is now.
        cost: what wants to enter.
        is_bulk: its class.
        time_left_s: until its caller's deadline.
        limits: the place's.
    """
    if not load.interactive + load.bulk:
        return None
    if is_bulk:
        ahead, wait_s, bound_s = load.bulk, load.bulk_wait_s, limits.bulk_wait_s
        has_room = (load.sure_wait_s or 0.0) <= limits.wait_s / 2
    else:
        ahead, wait_s, bound_s = load.interactive, load.wait_s, limits.wait_s
        has_room = wait_s is not None or ahead <= limits.blind_cost
    # a caller who spent its time on the way here is late however little is under way: serving
    # the oldest first, each just too late, is how goodput collapses
    known_s = wait_s or 0.0
    is_in_time = min(known_s, bound_s) <= time_left_s * _SURE_SHARE
    if has_room and is_in_time and (known_s <= bound_s or ahead + cost <= limits.free_cost):
        return None
    if wait_s is None:
        return _UNKNOWN_RETRY_S
    # whoever has too little time has less of it later: its client must not come back in it
    least_s = LEAST_RETRY_S if is_in_time else max(wait_s, time_left_s)
    return min(MOST_RETRY_S, max(least_s, wait_s - bound_s / 2))


def retry_after_s(wait_s: float | None) -> float:
    """When to come back to a place that is full, where work waits so long; None: nobody knows."""
    return min(MOST_RETRY_S, max(LEAST_RETRY_S, wait_s or _UNKNOWN_RETRY_S))


class Gate:
    """Lets work in by the rule above; belongs to one event loop."""

    def __init__(
        self, limits: Limits, *, what: str, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`what` ends the refusal's "too much work waits ...": "for this shard"."""
        self._limits = limits
        self._what = what
        self._clock = clock
        # as much may be on its way out when the first of a batch is counted, or be answered when
        # the crowd has just ended and nothing counts any more
        self._load = Load(lump=limits.free_cost / 2)

    @property
    def load(self) -> Load:
        """What is under way."""
        return self._load

    def enter(self, cost: float, *, is_bulk: bool, deadline_s: float) -> None:
        """Lets work in that must `leave`; `deadline_s` is its caller's, on the clock.

        Raises:
            DeadlineExceededError: the deadline has passed.
            OverloadedError: the work would wait too long.
        """
        now_s = self._clock()
        if deadline_s <= now_s:
            raise DeadlineExceededError("the deadline passed before the work began")
        self._load = advanced(self._load, now_s, self._limits)
        retry_s = refusal_s(
            self._load,
            cost,
            is_bulk=is_bulk,
            time_left_s=deadline_s - now_s,
            limits=self._limits,
        )
        if retry_s is not None:
            raise OverloadedError(
                f"too much work waits {self._what}; come back in {retry_s:.2f} s",
                retry_after_s=retry_s,
            )
        self._load = entered(self._load, cost, is_bulk=is_bulk)

    def leave(self, cost: float, *, is_bulk: bool, is_done: bool) -> None:
        """What entered is answered (`is_done`), or was given up, or was credited in parts."""
        load = advanced(self._load, self._clock(), self._limits)
        if is_done:
            load = credited(load, cost, is_bulk=is_bulk, limits=self._limits)
        self._load = entered(load, -cost, is_bulk=is_bulk)

    def credit(self, cost: float, *, is_bulk: bool) -> None:
        """A part of what is under way is done: for work so large that its end tells too little."""
        load = advanced(self._load, self._clock(), self._limits)
        self._load = credited(load, cost, is_bulk=is_bulk, limits=self._limits)

    @contextmanager
    def admit(self, cost: float, *, is_bulk: bool, deadline_s: float) -> Iterator[None]:
        """`enter` and `leave` around work; what raises is not done."""
        self.enter(cost, is_bulk=is_bulk, deadline_s=deadline_s)
        is_done = False
        try:
            yield
            is_done = True
        finally:
            self.leave(cost, is_bulk=is_bulk, is_done=is_done)
