"""Open and closed loops: when each call is sent, and what became of it. Knows no protocol.

The rules that keep it honest:
1. In the open loop a call's latency counts from the moment it was *meant* to be sent. A server that
   stops answering doesn't slow the schedule down, and the calls that would have been sent meanwhile
   are sent and counted, not left out ("coordinated omission").
2. A late call is sent at once and never skipped; how late it was is reported.
3. Every call is told: failed ones too, and those answered after the end.
"""

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass
from typing import Any

from shoal.bench.target import Reply

_YIELD_EVERY = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One call, in seconds since the run's start: when it was due, sent, and answered.

    `number` is its place in the schedule of all workers; a closed loop's calls are due when sent.
    """

    number: int
    due_s: float
    sent_s: float
    done_s: float
    reply: Reply


Send = Callable[[int], Coroutine[Any, Any, Reply]]
"""Makes a call by its number and says how it ended; doesn't raise for what a server does."""
Record = Callable[[Call], None]
"""Is told each call as it ends."""


async def open_loop(
    send: Send, due: Iterable[tuple[int, float]], record: Record, *, start_s: float | None = None
) -> None:
    """Sends each call of `due` (its number, and seconds after the start) whatever the answers do.

    Returns when all are answered. `start_s` is on `time.monotonic()`, now where it isn't given.
    """
    begun_s = time.monotonic() if start_s is None else start_s

    async def one(number: int, due_s: float) -> None:
        sent_s = time.monotonic() - begun_s
        reply = await send(number)
        done_s = time.monotonic() - begun_s
        record(Call(number=number, due_s=due_s, sent_s=sent_s, done_s=done_s, reply=reply))

    async with asyncio.TaskGroup() as group:
        for n_sent, (number, due_s) in enumerate(due):
            early_s = due_s - (time.monotonic() - begun_s)
            # when behind, only every so often: a task must be able to start before the next is made
            if early_s > 0 or not n_sent % _YIELD_EVERY:
                await asyncio.sleep(max(0.0, early_s))
            group.create_task(one(number, due_s))


async def closed_loop(
    send: Send,
    numbers: Iterable[int],
    record: Record,
    *,
    clients: int,
    total_s: float,
    start_s: float | None = None,
) -> None:
    """Keeps `clients` calls under way for `total_s`; each client waits for its answer.

    `numbers` are those of the calls, in turn; `start_s` as `open_loop`.
    """
    begun_s = time.monotonic() if start_s is None else start_s
    next_number = iter(numbers)

    async def client() -> None:
        await asyncio.sleep(max(0.0, begun_s - time.monotonic()))
        while (sent_s := time.monotonic() - begun_s) < total_s:
            number = next(next_number)
            reply = await send(number)
            done_s = time.monotonic() - begun_s
            record(Call(number=number, due_s=sent_s, sent_s=sent_s, done_s=done_s, reply=reply))

    async with asyncio.TaskGroup() as group:
        for _ in range(clients):
            group.create_task(client())
