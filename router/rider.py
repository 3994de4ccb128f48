"""Who waits in a lane or travels with a call, and how that ends.

Rule: a rider's answer is set once, whatever comes first: the reply, an error, or its own leaving.
Knows nothing of queues.
"""

import asyncio
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from shoal.errors import DeadlineExceededError
from shoal.rpc.deadline import Deadline
from shoal.tracing.spans import Span

Payload = TypeVar("Payload")
Reply = TypeVar("Reply")


class Ride:
    """A call that is shared; it is cancelled when every rider has left before it arrived."""

    def __init__(self, n_riders: int) -> None:
        self._left = 0
        self._n_riders = n_riders
        self.arrived = False
        self.call: asyncio.Task[None] | None = None
        """None before its first step, which the loop takes before it tells of any leaving."""

    @property
    def all_left(self) -> bool:
        """Whether nobody waits for it any more."""
        return self._left == self._n_riders

    def leave(self) -> None:
        """One rider less, answered or gone."""
        self._left += 1
        if self.all_left and not self.arrived and self.call is not None:
            self.call.cancel()


@dataclass(slots=True, eq=False, kw_only=True)
class Rider(Generic[Payload, Reply]):
    """One job in the queue or under way, and the place of its answer."""

    payload: Payload
    key: Hashable
    cost: int
    n_items: int
    is_bulk: bool
    deadline: Deadline
    since_s: float
    answer: "asyncio.Future[Reply]" = field(repr=False)
    ride: Ride | None = field(default=None, repr=False)
    """The call that it travels with; None in the queue."""
    span: Span | None = None
    """Of the request that it is of, where that is traced."""


def n_items_of(batch: Sequence[Rider[Payload, Reply]]) -> int:
    """Items that travel with all of them."""
    return sum(rider.n_items for rider in batch)


def in_time(rider: Rider[Payload, Reply]) -> bool:
    """Whether it may still ride; one that is too late ends here and costs nothing."""
    if not rider.deadline.expired:
        return True
    fail([rider], DeadlineExceededError("the deadline passed in the queue"))
    return False


def fail(batch: Sequence[Rider[Payload, Reply]], failure: Exception) -> None:
    """Ends with `failure` those that have no answer yet."""
    for rider in batch:
        if not rider.answer.done():
            rider.answer.set_exception(failure)
            # a rider that left meanwhile never looks: that is no fault to log
            rider.answer.exception()
