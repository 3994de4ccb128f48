"""Runs asyncio programs in simulated time: what would be waited for is skipped, exactly.

Rule: the clock moves only when every callback that is due has run, and then to the next timer; so
a run depends on nothing but its program and its seeds. There are no sockets and no threads here:
what is sent to an executor runs at once. Knows nothing of searching.

(Deterministic simulation of the real program: Zhou et al., "FoundationDB", SIGMOD 2021, section 4.)
"""

import asyncio
import contextlib
import time
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, TypeVar

Result = TypeVar("Result")

BEGIN_S = 1_000.0
"""What the clock shows first: no program may take 0 for the beginning of time."""


TURN_S = 1e-6
"""What a turn of the loop takes at least: a clock that stood still between turns would let a timer
of a rounding error's length fire for ever, which no real clock does."""


class DeadlockError(RuntimeError):
    """Somebody waits, and nothing is left that could end it."""


class SimulatedLoop(asyncio.BaseEventLoop):
    """An event loop whose `time()` is simulated; it is its own selector, of nothing."""

    def __init__(self) -> None:
        super().__init__()
        self._selector = self
        self._now_s = BEGIN_S
        self.faults: list[str] = []
        """What no task's owner heard of: exceptions never looked at, or in callbacks."""
        self.set_exception_handler(lambda _loop, context: self.faults.append(_told(context)))

    def time(self) -> float:
        """Simulated seconds."""
        return self._now_s

    def select(self, timeout_s: float | None) -> tuple[()]:
        """Called by the loop where it would sleep: skips the time instead."""
        if timeout_s is None:
            raise DeadlockError("tasks wait, and nothing is left that could end it")
        self._now_s += max(timeout_s, TURN_S)
        return ()

    def work(self, seconds: float) -> None:
        """What a callback calls that keeps the loop busy: nothing else runs meanwhile."""
        self._now_s += seconds

    def run_in_executor(  # type: ignore[override]
        self, executor: object, func: Callable[..., Result], *args: Any
    ) -> "asyncio.Future[Result]":
        """Runs `func` at once: in simulated time nothing is slow but what says so."""
        del executor
        future: asyncio.Future[Result] = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as failure:  # noqa: BLE001 -- whoever awaits it is to have it
            future.set_exception(failure)
        return future

    def _process_events(self, event_list: object) -> None:
        """Nothing was selected."""

    def _write_to_self(self) -> None:
        """No other thread ever has to wake this loop."""


def _told(context: dict[str, Any]) -> str:
    return f"{context['message']}: {context.get('exception')!r}"


@contextlib.contextmanager
def simulated_clocks(loop: SimulatedLoop) -> Iterator[None]:
    """Lets `time.monotonic()` and `time.perf_counter()` tell the loop's time, process-wide."""
    monotonic, perf_counter = time.monotonic, time.perf_counter
    time.monotonic = time.perf_counter = loop.time
    try:
        yield
    finally:
        time.monotonic, time.perf_counter = monotonic, perf_counter


def run_simulated(main: Callable[[SimulatedLoop], Coroutine[Any, Any, Result]]) -> Result:
    """Runs `main(loop)` to its end in simulated time.

    Raises:
        DeadlockError: it waits for what never comes.
        RuntimeError: an exception in it was lost.
    """
    with asyncio.Runner(loop_factory=SimulatedLoop) as runner:
        loop = runner.get_loop()
        assert isinstance(loop, SimulatedLoop)
        with simulated_clocks(loop):
            result = runner.run(main(loop))
    if loop.faults:
        raise RuntimeError("; ".join(loop.faults))
    return result
