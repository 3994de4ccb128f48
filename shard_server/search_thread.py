"""The one thread that searches: faiss's calls happen there and nowhere else.

Rule: refusing comes before working. The queue is bounded, and bulk's half of it too; work whose
deadline has passed or whose caller has left is dropped before it starts; INTERACTIVE goes before
BULK, and whenever BULK that runs asks if it is still wanted, everything that waits goes first. The
thread knows nothing of what it runs.
"""

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Generic, TypeVar

from shoal.admission import retry_after_s
from shoal.errors import DeadlineExceededError, OverloadedError, UnavailableError
from shoal.rpc.deadline import Deadline
from shoal.rpc.metrics import IN_FLIGHT, QUERIES, QUEUE_DEPTH, STAGE_SECONDS

T = TypeVar("T")

_LATE = "the deadline passed before the search began"


@dataclass(frozen=True, slots=True)
class Done(Generic[T]):
    """A finished piece of work, with its time in the queue and at work, in milliseconds.

    `begun_s` is when work began, on `time.monotonic()`.
    """

    value: T
    queue_ms: float
    work_ms: float
    begun_s: float


class Stopped(Exception):  # noqa: N818 -- a signal between work and its thread, not a fault
    """Raised by work that saw `is_wanted` turn false."""


@dataclass(slots=True, eq=False)
class _Job:
    work: Callable[[Callable[[], bool]], Any]
    deadline: Deadline | None
    n_queries: int
    bulk: bool
    loop: asyncio.AbstractEventLoop
    future: "asyncio.Future[Any]"
    queued_at_s: float = field(default_factory=time.monotonic)
    left: bool = False
    let_by_s: float = 0.0
    """How long others went first within it."""

    def is_wanted(self) -> bool:
        """Whether somebody still waits, and in time."""
        return not self.left and (self.deadline is None or not self.deadline.expired)


class SearchThread:
    """A thread with a bounded queue before it.

    Args:
        max_queued: jobs that may wait; the one that runs is not counted.
        wait_s: how long work waits, as far as known, for telling when to come back.
    """

    def __init__(
        self, *, max_queued: int, wait_s: Callable[[], float | None] = lambda: None
    ) -> None:
        self._wait_s = wait_s
        self._max_queued = max_queued
        self._interactive: deque[_Job] = deque()
        self._bulk: deque[_Job] = deque()
        self._wake = threading.Condition()
        self._closing = False
        self._n_queries_waiting = 0
        self._n_queries_running = 0
        self._queue_seconds = STAGE_SECONDS.labels("shard_queue")
        self._search_seconds = STAGE_SECONDS.labels("shard_search")
        QUEUE_DEPTH.labels("shard").set_function(lambda: self._n_queries_waiting)
        IN_FLIGHT.labels("shard").set_function(self._n_queries_here)
        self._thread = threading.Thread(target=self._work, name="search", daemon=True)
        self._thread.start()

    async def search(
        self,
        work: Callable[[Callable[[], bool]], T],
        *,
        n_queries: int,
        deadline: Deadline,
        bulk: bool = False,
    ) -> Done[T]:
        """Run `work` on the thread; it may ask its argument, between steps, if it is still wanted.

        Raises:
            OverloadedError: the queue is full.
            DeadlineExceededError: the deadline passed, in the queue or at work.
        """
        if deadline.expired:
            raise DeadlineExceededError(_LATE)
        n_waiting = len(self._interactive) + len(self._bulk)
        if n_waiting >= self._max_queued or (bulk and 2 * len(self._bulk) >= self._max_queued):
            raise OverloadedError(
                f"{n_waiting} searches wait for this shard, as many as it takes",
                retry_after_s=retry_after_s(self._wait_s()),
            )
        job = self._enqueue(work, deadline=deadline, n_queries=n_queries, bulk=bulk)
        try:
            async with asyncio.timeout(deadline.remaining_s()):
                done: Done[T] = await job.future
        except TimeoutError:
            raise DeadlineExceededError("the deadline passed before the search was done") from None
        finally:
            job.left = True
        return done

    async def own(self, work: Callable[[], T]) -> T:
        """Run work that belongs to the thread but is no search (placing, warming, closing)."""
        job = self._enqueue(lambda _wanted: work(), deadline=None, n_queries=0, bulk=False)
        done: Done[T] = await job.future
        return done.value

    async def close(self) -> None:
        """Refuse what waits, finish what runs, end the thread."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        await asyncio.to_thread(self._thread.join)

    def _enqueue(
        self,
        work: Callable[[Callable[[], bool]], Any],
        *,
        deadline: Deadline | None,
        n_queries: int,
        bulk: bool,
    ) -> _Job:
        loop = asyncio.get_running_loop()
        job = _Job(work, deadline, n_queries, bulk, loop, loop.create_future())
        with self._wake:
            if self._closing:
                raise UnavailableError("this shard server is stopping")
            (self._bulk if bulk else self._interactive).append(job)
            self._count(n_queries)
            self._wake.notify()
        return job

    def _work(self) -> None:
        while (job := self._next()) is not None:
            self._serve(job)
            del job  # or the last search's vectors and index would live until the next one

    def _serve(self, job: _Job) -> None:
        if self._closing:
            _fail(job, UnavailableError("this shard server is stopping"))
        elif not job.is_wanted():
            _fail(job, DeadlineExceededError(_LATE))
        else:
            self._run(job)

    def _let_by(self, bulk: _Job) -> bool:
        """Runs what is interactive and waits, within bulk work; whether that is still wanted."""
        begun_s = time.monotonic()
        while self._interactive:  # this thread alone takes from it
            with self._wake:
                job = self._interactive.popleft()
                self._count(-job.n_queries)
            self._serve(job)
        bulk.let_by_s += time.monotonic() - begun_s
        return bulk.is_wanted()  # only now: what went first may have closed what it searches

    def _next(self) -> _Job | None:
        with self._wake:
            while not self._interactive and not self._bulk:
                if self._closing:
                    return None
                self._wake.wait()
            job = (self._interactive or self._bulk).popleft()
            self._count(-job.n_queries)
            return job

    def _n_queries_here(self) -> int:
        return self._n_queries_waiting + self._n_queries_running

    def _run(self, job: _Job) -> None:
        begun_s = time.monotonic()
        self._n_queries_running += job.n_queries
        try:
            value = job.work(partial(self._let_by, job) if job.bulk else job.is_wanted)
        except Stopped:
            _fail(job, DeadlineExceededError("the deadline passed before the search was done"))
        except BaseException as failure:  # noqa: BLE001 -- it is the caller's to see, whatever it is
            _fail(job, failure)
        else:
            work_s = time.monotonic() - begun_s - job.let_by_s
            queue_s = begun_s - job.queued_at_s
            if job.n_queries:  # else its own work, which nobody searches by
                QUERIES.inc(job.n_queries)
                if not job.bulk:  # its waits and brute force would hide what callers wait for
                    self._queue_seconds.observe(queue_s)
                    self._search_seconds.observe(work_s)
            done = Done(value, queue_s * 1e3, work_s * 1e3, begun_s)
            _settle(job, lambda: job.future.set_result(done))
        finally:
            self._n_queries_running -= job.n_queries

    def _count(self, n_queries: int) -> None:
        self._n_queries_waiting += n_queries


def _fail(job: _Job, failure: BaseException) -> None:
    _settle(job, lambda: job.future.set_exception(failure))


def _settle(job: _Job, tell: Callable[[], None]) -> None:
    def tell_if_waiting() -> None:
        if not job.future.done():
            tell()

    try:
        job.loop.call_soon_threadsafe(tell_if_waiting)
    except RuntimeError:
        job.left = True  # the loop is closed: nobody is left to tell
