"""A lane before a call that ends when the test says so."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence

from router.lane import Lane
from shoal.rpc.deadline import Deadline


class Line:
    """A lane before a scripted call that ends when the test says so."""

    def __init__(self, tasks: asyncio.TaskGroup, max_cost: int = 100, n_active: int = 0) -> None:
        self.called = asyncio.Event()
        self.calls: list[list[str]] = []
        self.timeouts_s: list[float] = []
        self.ends: list[asyncio.Future] = []
        self.sizes: list[int] = []
        self.lane: Lane[str, str] = Lane(
            self._call,
            tasks=tasks,
            max_cost=max_cost,
            on_batch=self.sizes.append,
            n_active=lambda: n_active,
        )

    async def _call(self, payloads: Sequence[str], timeout_s: float, spans) -> list[str]:
        self.calls.append(list(payloads))
        self.called.set()
        self.timeouts_s.append(timeout_s)
        end = asyncio.get_running_loop().create_future()
        self.ends.append(end)
        await end
        return [f"{payload}!" for payload in payloads]

    def submit(self, payload: str, *, key="a", cost=1, bulk=False, within_s=60.0):
        return self.lane.submit(
            payload,
            key=key,
            cost=cost,
            n_items=1,
            is_bulk=bulk,
            deadline=Deadline.after(within_s),
        )

    def end(self, number: int) -> None:
        self.ends[number].set_result(None)


@contextlib.asynccontextmanager
async def line(max_cost: int = 100, n_active: int = 0) -> AsyncIterator[Line]:
    async with asyncio.TaskGroup() as tasks:
        made = Line(tasks, max_cost, n_active)
        yield made
        for end in made.ends:
            if not end.done():
                end.set_result(None)
    assert (made.lane.load, made.lane.in_flight, made.lane.n_waiting) == (0, 0, 0)


async def turns(n: int = 4) -> None:
    """Lets the event loop go round; no time passes."""
    for _ in range(n):
        await asyncio.sleep(0)
