"""Open and closed loops: when each call is sent, and what became of it. Knows no gRPC.

The rules that keep it honest:
1. In the open loop a call's latency counts from the moment it was *meant* to be sent. A server that
   stops answering doesn't slow the schedule down, and the calls that would have been sent meanwhile
   are sent and counted, not left out ("coordinated omission").
2. A late call is sent at once and never skipped; how late it was is reported.
3. Every call of the measured time is counted: failed ones too, and those answered after its end.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

OK = "OK"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """How a call ended: "OK" or the name of its status code, and whether shards were missing."""

    code: str
    degraded: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One call, in seconds since the run's start: when it was due, sent, and answered."""

    due_s: float
    sent_s: float
    done_s: float
    reply: Reply


Send = Callable[[int], Awaitable[Reply]]
"""Makes call i and says how it ended; doesn't raise for what a server does."""


async def open_loop(send: Send, *, rate: float, total_s: float) -> list[Call]:
    """Sends call i at i / rate seconds, whatever the answers do, for `total_s`; awaits them all."""
    calls: list[Call] = []
    start_s = time.perf_counter()

    async def one(i: int, due_s: float) -> None:
        sent_s = time.perf_counter() - start_s
        reply = await send(i)
        done_s = time.perf_counter() - start_s
        calls.append(Call(due_s=due_s, sent_s=sent_s, done_s=done_s, reply=reply))

    async with asyncio.TaskGroup() as group:
        for i in range(int(rate * total_s)):
            due_s = i / rate
            early_s = due_s - (time.perf_counter() - start_s)
            # when behind, only every so often: a task must be able to start before the next is made
            if early_s > 0 or not i % 16:
                await asyncio.sleep(max(0.0, early_s))
            group.create_task(one(i, due_s))
    return calls


async def closed_loop(send: Send, *, clients: int, total_s: float) -> list[Call]:
    """Keeps `clients` calls under way for `total_s`; each client waits for its answer."""
    calls: list[Call] = []
    start_s = time.perf_counter()
    next_call = iter(range(1 << 62))

    async def client() -> None:
        while (due_s := time.perf_counter() - start_s) < total_s:
            reply = await send(next(next_call))
            done_s = time.perf_counter() - start_s
            calls.append(Call(due_s=due_s, sent_s=due_s, done_s=done_s, reply=reply))

    async with asyncio.TaskGroup() as group:
        for _ in range(clients):
            group.create_task(client())
    return calls
