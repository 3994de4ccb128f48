"""Which waiting texts go together. Pure: no clocks, no threads; time is an argument.

1. Who left, or whose deadline passed, is dropped before it costs anything.
2. Interactive texts go before bulk ones; nobody waits for a batch to fill.
3. The oldest of its class always rides; company is chosen among those that wait behind it, by
   length, so that padding stays below what another pass would cost.
4. A batch's padded size (longest x count) stays within the budget, except that one text alone
   always goes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from itertools import accumulate
from typing import Protocol


class Priority(IntEnum):
    """The smaller goes first."""

    INTERACTIVE = 0
    BULK = 1


class Waiting(Protocol):
    """A text that waits."""

    @property
    def n_tokens(self) -> int:
        """Tokens that a pass reads of it."""
        ...

    @property
    def priority(self) -> Priority:
        """Its class."""
        ...

    @property
    def lane(self) -> int:
        """What must agree within a batch."""
        ...

    @property
    def deadline_s(self) -> float:
        """When nobody waits for it any more, in seconds on the caller's clock."""
        ...

    @property
    def cancelled(self) -> bool:
        """Whether its caller has left."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchCost:
    """What passes cost: `max_tokens` padded ones at most; a pass costs as much as `pass_tokens`."""

    max_tokens: int
    pass_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """Positions in what waited: the next batch, shortest text first, and those to drop."""

    batch: tuple[int, ...]
    dropped: tuple[int, ...]


_HORIZON_BATCHES = 4  # company is looked for among this many batches' worth of waiting tokens


def next_batch(waiting: Sequence[Waiting], *, now_s: float, cost: BatchCost) -> Choice:
    """Chooses the next batch from `waiting`, which is in order of arrival.

    Args:
        waiting: the oldest first.
        now_s: the time, on the clock of the deadlines.
        cost: budget and price of a pass.
    """
    dropped = []
    live = []
    for position, text in enumerate(waiting):
        if text.cancelled or text.deadline_s <= now_s:
            dropped.append(position)
        else:
            live.append(position)
    if not live:
        return Choice(batch=(), dropped=tuple(dropped))
    first = min(live, key=lambda position: (waiting[position].priority, position))
    candidates = _companions(waiting, live, first, cost.max_tokens * _HORIZON_BATCHES)
    lengths = [waiting[position].n_tokens for position in candidates]
    low, high = _window(lengths, candidates.index(first), cost)
    return Choice(batch=tuple(candidates[low:high]), dropped=tuple(dropped))


def spread(n_tokens: int, *, n_idle: int, cost: BatchCost) -> BatchCost:
    """The budget with which `n_tokens` of waiting texts keep `n_idle` idle cores busy at once.

    A share has room for one pass's price more, so that rounding leaves no crumbs behind.
    """
    share = -(-n_tokens // n_idle) + cost.pass_tokens
    return BatchCost(max_tokens=min(cost.max_tokens, share), pass_tokens=cost.pass_tokens)


def plan_batches(lengths: Sequence[int], cost: BatchCost) -> list[list[int]]:
    """Cuts texts of these token counts into batches of similar length, the longest first.

    Every position stands in exactly one batch, shortest text first in each.
    """
    order = sorted(range(len(lengths)), key=lambda position: (lengths[position], position))
    ordered = [lengths[position] for position in order]
    sums = [0, *accumulate(ordered)]
    batches = []
    high = len(order)
    while high > 0:
        low = high - 1
        while low > 0 and _fits(ordered, sums, low - 1, high, cost):
            low -= 1
        batches.append(order[low:high])
        high = low
    return batches


def _companions(
    waiting: Sequence[Waiting], live: Sequence[int], first: int, max_tokens: int
) -> list[int]:
    """Who may ride with `first`, sorted by length: its class and lane, within the horizon."""
    leader = waiting[first]
    chosen = []
    n_tokens = 0
    for position in live:
        text = waiting[position]
        if text.priority == leader.priority and text.lane == leader.lane:
            chosen.append(position)
            n_tokens += text.n_tokens
            if n_tokens >= max_tokens:
                break
    return sorted(chosen, key=lambda position: (waiting[position].n_tokens, position))


def _window(lengths: Sequence[int], must: int, cost: BatchCost) -> tuple[int, int]:
    """The largest run of sorted `lengths` around position `must` that is worth one pass."""
    sums = [0, *accumulate(lengths)]
    best = (must, must + 1)
    low = 0
    for high in range(must + 1, len(lengths) + 1):
        while not _fits(lengths, sums, low, high, cost):
            low += 1
        if low > must:
            break  # from here on, runs begin behind `must`
        if high - low > best[1] - best[0]:
            best = (low, high)
    return best


def _fits(
    lengths: Sequence[int], sums: Sequence[int], low: int, high: int, cost: BatchCost
) -> bool:
    """Whether lengths[low:high], sorted, may be one batch; `sums` are their running totals.

    Padding may take what a pass costs: more, and two passes are cheaper than one.
    """
    if high - low == 1:
        return True
    n_padded = lengths[high - 1] * (high - low)
    n_real = sums[high] - sums[low]
    return n_padded <= cost.max_tokens and n_padded - n_real <= cost.pass_tokens
