"""A queue before one replica, so that what waits travels together.

At most two calls are under way, and one of them is bulk's at most: the other is left to those who
wait for an answer. Few queries leave at the end of the same turn of the event loop, so a lone one
waits for nobody; many are held together for a moment (`batching.hold_s`). Every rider waits by its
own deadline; a shared call lasts until the latest one's and is cancelled when the last rider has
left. What no call can answer any more ends with an error: no rider is ever forgotten. Knows nothing
of what is asked.
"""

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable, Collection, Hashable, Sequence
from typing import Generic

from router.batching import alike, hold_s, next_batch
from router.rider import Payload, Reply, Ride, Rider, fail, in_time, n_items_of
from shoal.errors import ShoalError, UnavailableError
from shoal.rpc.deadline import Deadline
from shoal.tracing.spans import Span

logger = logging.getLogger(__name__)

MAX_IN_FLIGHT = 2
MAX_BULK_IN_FLIGHT = 1
LANDING = 4
"""Riders that are answered in one turn of the event loop, in which gRPC accepts half a call: where
32 go on in one turn of 10 ms, new calls wait for seconds, and nobody knows of them."""

Call = Callable[[Sequence[Payload], float, Sequence[Span]], Awaitable[Sequence[Reply]]]
"""Sends payloads of one key together, within seconds; answers one reply each, in their order. The
spans are those of the riders that are traced."""


class Lane(Generic[Payload, Reply]):
    """The queue; `tasks` owns the calls."""

    def __init__(
        self,
        call: Call[Payload, Reply],
        *,
        tasks: asyncio.TaskGroup,
        max_cost: int,
        on_batch: Callable[[int], None],
        n_active: Callable[[], int] = lambda: 0,
    ) -> None:
        """`on_batch` hears how many items travel with each call.

        `n_active` tells how many queries are under way in this process.
        """
        self._call = call
        self._tasks = tasks
        self._max_cost = max_cost
        self._on_batch = on_batch
        self._n_active = n_active
        # in the order of arrival; a dict, so that a rider leaves without a search for it
        self._waiting: dict[Rider[Payload, Reply], None] = {}
        self._n_waiting = 0
        self._in_flight = 0
        self._bulk_in_flight = 0
        # items under way by key
        self._riding: dict[Hashable, int] = {}
        self._woken = False
        self._look_again: asyncio.TimerHandle | None = None
        self._closed = False

    @property
    def in_flight(self) -> int:
        """Calls under way."""
        return self._in_flight

    @property
    def n_waiting(self) -> int:
        """Items queued."""
        return self._n_waiting

    @property
    def load(self) -> int:
        """Items queued or under way."""
        return self._n_waiting + sum(self._riding.values())

    def submit(
        self,
        payload: Payload,
        *,
        key: Hashable,
        cost: int,
        n_items: int,
        is_bulk: bool,
        deadline: Deadline,
        span: Span | None = None,
    ) -> "asyncio.Future[Reply]":
        """Queues a job; the future ends with its reply or with the call's error.

        Cancelling the future takes the job out of the queue or off its call.
        """
        loop = asyncio.get_running_loop()
        # Rider[Payload, Reply](...) would go through typing, which takes as long as all the rest
        rider: Rider[Payload, Reply] = Rider(
            payload=payload,
            key=key,
            cost=cost,
            n_items=n_items,
            is_bulk=is_bulk,
            deadline=deadline,
            since_s=loop.time(),
            answer=loop.create_future(),
            span=span,
        )
        if self._closed:
            fail([rider], UnavailableError("the connection was closed"))
            return rider.answer
        self._waiting[rider] = None
        self._n_waiting += n_items
        rider.answer.add_done_callback(lambda _answer: self._leave(rider))
        if not self._woken and self._in_flight < MAX_IN_FLIGHT:
            self._woken = True
            loop.call_soon(self._wake)
        return rider.answer

    def close(self) -> None:
        """Ends what waits with UnavailableError, and everything submitted from now on."""
        self._closed = True
        fail(list(self._waiting), UnavailableError("the connection was closed"))

    def _leave(self, rider: Rider[Payload, Reply]) -> None:
        if rider.ride is not None:
            rider.ride.leave()
        else:
            self._take(rider)

    def _take(self, rider: Rider[Payload, Reply]) -> None:
        if rider in self._waiting:
            del self._waiting[rider]
            self._n_waiting -= rider.n_items

    def _wake(self) -> None:
        self._woken = False
        self._depart()

    def _depart(self) -> None:
        while self._waiting and self._in_flight < MAX_IN_FLIGHT and not self._closed:
            batch = self._next_batch()
            if not batch:
                return
            for rider in batch:
                self._take(rider)
            riders = [rider for rider in batch if not rider.answer.done() and in_time(rider)]
            if riders:
                self._in_flight += 1
                self._bulk_in_flight += riders[0].is_bulk
                key = riders[0].key
                self._riding[key] = self._riding.get(key, 0) + n_items_of(riders)
                ride = Ride(len(riders))
                for rider in riders:
                    rider.ride = ride
                self._tasks.create_task(self._ride(riders, ride))

    def _next_batch(self) -> list[Rider[Payload, Reply]]:
        """Who should leave now; nobody, and a later look, where what waits is held for company."""
        loop = asyncio.get_running_loop()
        if self._look_again is not None:
            self._look_again.cancel()
            self._look_again = None
        now_s, n_active, look_again_s = loop.time(), self._n_active(), math.inf
        waiting: Collection[Rider[Payload, Reply]] = self._waiting
        if self._bulk_in_flight >= MAX_BULK_IN_FLIGHT:
            waiting = [rider for rider in waiting if not rider.is_bulk]
        while waiting:
            batch = next_batch(waiting, self._max_cost)
            key = batch[0].key
            held_s = hold_s(
                n_items_of(batch),
                n_riding=self._riding.get(key, 0),
                n_active=n_active,
                waited_s=now_s - batch[0].since_s,
                is_full=sum(r.cost for r in batch) + batch[0].cost > self._max_cost,
            )
            if not held_s:
                return batch
            look_again_s = min(look_again_s, held_s)
            # others don't wait for it
            waiting = [rider for rider in waiting if not alike(rider.key, key)]
        if look_again_s < math.inf:
            self._look_again = loop.call_later(look_again_s, self._wake)
        return []

    async def _ride(self, batch: list[Rider[Payload, Reply]], ride: Ride) -> None:
        n_items = n_items_of(batch)
        ride.call = task = asyncio.current_task()
        failure: Exception = UnavailableError("the connection was closed before the answer came")
        replies: list[tuple[Rider[Payload, Reply], Reply]] = []
        try:
            self._on_batch(n_items)
            timeout_s = max(rider.deadline.remaining_s() for rider in batch)
            payloads = [rider.payload for rider in batch]
            spans = [rider.span for rider in batch if rider.span is not None]
            told = await self._call(payloads, timeout_s, spans)
            replies = list(zip(batch, told, strict=True))
        except asyncio.CancelledError:
            # the last rider left, or the channel was closed under the call: both end this call
            # alone; only the lane's owner may end the task
            if not ride.all_left and task is not None and task.cancelling():
                self.close()
                raise
        except ShoalError as refused:
            failure = refused
        except Exception as fault:  # a bug of ours: the riders hear of it, and the lane goes on
            logger.exception("a shared call failed")
            failure = fault
        finally:
            ride.arrived = True
            self._in_flight -= 1
            self._bulk_in_flight -= batch[0].is_bulk
            self._riding[batch[0].key] -= n_items
            if not self._riding[batch[0].key]:
                del self._riding[batch[0].key]
            if not replies:
                fail(batch, failure)
            self._depart()
        await _land(replies)


async def _land(replies: Sequence[tuple[Rider[Payload, Reply], Reply]]) -> None:
    """Answers the riders, a few in a turn; the next batch has left already."""
    try:
        for number, (rider, reply) in enumerate(replies):
            if number and not number % LANDING:
                await asyncio.sleep(0)
            if not rider.answer.done():
                rider.answer.set_result(reply)
    finally:
        fail([rider for rider, _ in replies], UnavailableError("the connection was closed"))
