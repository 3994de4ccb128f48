"""Work of several coroutines that a failure or a signal ends.

Must not know what the work is.
"""

import asyncio
import contextlib
import signal
from collections.abc import Coroutine, Iterator
from typing import Any

from shoal.errors import ShoalError


async def all_of(work: list[Coroutine[Any, Any, None]]) -> None:
    """Awaits all; the first failure cancels the others and is raised as it is."""
    try:
        async with asyncio.TaskGroup() as group:
            for coroutine in work:
                group.create_task(coroutine)
    except* ShoalError as failures:
        first = failures.exceptions[0]
        while isinstance(first, ExceptionGroup):
            first = first.exceptions[0]
        raise first from None


async def unless_set(stopping: asyncio.Event, work: Coroutine[Any, Any, None]) -> bool:
    """Awaits `work`; False, with the work cancelled, where `stopping` was set first."""
    async with asyncio.TaskGroup() as group:
        working = group.create_task(_outcome(work))
        stopped = group.create_task(stopping.wait())
        await asyncio.wait({working, stopped}, return_when=asyncio.FIRST_COMPLETED)
        working.cancel()
        stopped.cancel()
    if working.cancelled():
        return False
    failure = working.result()
    if failure is not None:
        raise failure
    return not stopping.is_set()


async def _outcome(work: Coroutine[Any, Any, None]) -> ShoalError | None:
    # as a value, so that a task group doesn't wrap it
    try:
        await work
    except ShoalError as failure:
        return failure
    return None


@contextlib.contextmanager
def signals_set(stopping: asyncio.Event, hurried: asyncio.Event) -> Iterator[None]:
    """The first signal asks for the end, the second for a quick one."""
    loop = asyncio.get_running_loop()

    def on_signal() -> None:
        (hurried if stopping.is_set() else stopping).set()

    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    for number in numbers:
        loop.add_signal_handler(number, on_signal)
    try:
        yield
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)
