"""A queue before one replica, so that what waits travels together.

At most two calls are under way; while one is, the other's queries gather. A job that finds the
lane free leaves at the end of the same turn of the event loop, so a lone query waits for nobody.
Every rider waits by its own deadline; a shared call lasts until the latest one's and is cancelled
when the last rider has left. Knows nothing of what is asked.
"""

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from router.batching import next_batch
from shoal.errors import InternalError
from shoal.rpc.deadline import Deadline

MAX_IN_FLIGHT = 2

Payload = TypeVar("Payload")
Reply = TypeVar("Reply")


@dataclass(slots=True, eq=False, kw_only=True)
class Rider(Generic[Payload, Reply]):
    """One job in the queue or under way, and the place of its answer."""

    payload: Payload
    key: Hashable
    cost: int
    n_items: int
    is_bulk: bool
    deadline: Deadline
    answer: "asyncio.Future[Reply]" = field(repr=False)


Call = Callable[[Sequence[Payload], float], Awaitable[Sequence[Reply]]]
"""Sends payloads of one key together, within seconds; answers one reply each, in their order."""


class Lane(Generic[Payload, Reply]):
    """The queue; `tasks` owns the calls."""

    def __init__(
        self,
        call: Call[Payload, Reply],
        *,
        tasks: asyncio.TaskGroup,
        max_cost: int,
        on_batch: Callable[[int], None],
    ) -> None:
        """`on_batch` hears how many items travel with each call."""
        self._call = call
        self._tasks = tasks
        self._max_cost = max_cost
        self._on_batch = on_batch
        self._waiting: list[Rider[Payload, Reply]] = []
        self._in_flight = 0
        self._riding = 0
        self._woken = False

    @property
    def in_flight(self) -> int:
        """Calls under way."""
        return self._in_flight

    @property
    def n_waiting(self) -> int:
        """Items queued."""
        return sum(rider.n_items for rider in self._waiting)

    @property
    def load(self) -> int:
        """Items queued or under way."""
        return self.n_waiting + self._riding

    def submit(
        self,
        payload: Payload,
        *,
        key: Hashable,
        cost: int,
        n_items: int,
        is_bulk: bool,
        deadline: Deadline,
    ) -> "asyncio.Future[Reply]":
        """Queues a job; the future ends with its reply or with the call's error.

        Cancelling the future takes the job out of the queue or off its call.
        """
        loop = asyncio.get_running_loop()
        rider = Rider[Payload, Reply](
            payload=payload,
            key=key,
            cost=cost,
            n_items=n_items,
            is_bulk=is_bulk,
            deadline=deadline,
            answer=loop.create_future(),
        )
        self._waiting.append(rider)
        if not self._woken and self._in_flight < MAX_IN_FLIGHT:
            self._woken = True
            loop.call_soon(self._wake)
        return rider.answer

    def _wake(self) -> None:
        self._woken = False
        self._depart()

    def _depart(self) -> None:
        while self._in_flight < MAX_IN_FLIGHT:
            self._waiting = [
                r for r in self._waiting if not r.answer.done() and not r.deadline.expired
            ]
            if not self._waiting:
                return
            batch = next_batch(self._waiting, self._max_cost)
            boarded = set(map(id, batch))
            self._waiting = [r for r in self._waiting if id(r) not in boarded]
            self._in_flight += 1
            self._tasks.create_task(self._ride(batch))

    async def _ride(self, batch: list[Rider[Payload, Reply]]) -> None:
        n_items = sum(rider.n_items for rider in batch)
        self._riding += n_items
        self._on_batch(n_items)
        leaving = _LastOff(asyncio.current_task(), len(batch))
        for rider in batch:
            rider.answer.add_done_callback(leaving)
        timeout_s = max(rider.deadline.remaining_s() for rider in batch)
        try:
            replies = await self._call([rider.payload for rider in batch], timeout_s)
        except asyncio.CancelledError:
            if not leaving.all_left:
                raise
        except Exception as failure:  # noqa: BLE001 -- every rider hears of it, whatever it is
            _fail(batch, failure)
        else:
            leaving.arrived = True
            for rider, reply in zip(batch, replies, strict=True):
                if not rider.answer.done():
                    rider.answer.set_result(reply)
        finally:
            leaving.arrived = True
            self._in_flight -= 1
            self._riding -= n_items
            _fail(batch, InternalError("the router stopped before the shard answered"))
            self._depart()


class _LastOff:
    """Cancels a call when every rider has left before it arrived."""

    def __init__(self, call: "asyncio.Task[None] | None", n_riders: int) -> None:
        self._call = call
        self._left = 0
        self._n_riders = n_riders
        self.arrived = False

    @property
    def all_left(self) -> bool:
        return self._left == self._n_riders

    def __call__(self, _answer: "asyncio.Future[Reply]") -> None:
        self._left += 1
        if self.all_left and not self.arrived and self._call is not None:
            self._call.cancel()


def _fail(batch: Sequence[Rider[Payload, Reply]], failure: Exception) -> None:
    for rider in batch:
        if not rider.answer.done():
            rider.answer.set_exception(failure)
            # a rider that left meanwhile never looks: that is no fault to log
            rider.answer.exception()
