"""The loops that send load, against servers that are functions."""

import asyncio
import itertools

import pytest

from shoal.bench.drive import closed_loop, open_loop
from shoal.bench.plan import LoadPlan
from shoal.bench.report import LoadReport, summarize
from shoal.bench.schedule import Stage, due_times
from shoal.bench.tally import Tally
from shoal.bench.target import Reply

OK = Reply(code="OK")


async def report_of(send, *, rate, total_s) -> LoadReport:
    stage = Stage(rate=rate, warmup_s=0.0, duration_s=total_s)
    tally = Tally(stage, ())
    await open_loop(send, enumerate(due_times(stage)), tally.record)
    return summarize(tally, LoadPlan(target="x:1", rate=rate))


async def test_a_frozen_server_is_not_forgiven():
    """100 calls a second for 1 s against a server that freezes for the first 0.6 s: the call due at
    t < 0.6 is answered at 0.6, so 60 calls wait uniformly from 0 to 0.6 s and 40 hardly at all. Of
    100 sorted, the 50th is the 10th of the 60: 0.1 s; the 90th is the 50th of them: 0.5 s. A loop
    that waits for answers would have sent one call in that time, and shown a median near 0.
    """
    loop = asyncio.get_running_loop()
    thaw_s = loop.time() + 0.6

    async def send(_i):
        await asyncio.sleep(max(0.0, thaw_s - loop.time()))
        return OK

    figures = await report_of(send, rate=100, total_s=1.0)
    assert figures.n_calls == 100
    assert figures.latency_ms.p50 == pytest.approx(100, abs=40)
    assert figures.latency_ms.p90 == pytest.approx(500, abs=60)
    assert figures.latency_ms.max == pytest.approx(600, abs=60)


async def test_late_calls_are_sent_and_their_lateness_fails_the_run():
    """When the generator itself is held up, no call is skipped, and the report says whose it was:
    0.3 s of the loop's own, which is all that these calls wait for.
    """

    def send_blocking(i):
        async def send():
            if i == 0:
                import time

                time.sleep(0.3)  # noqa: ASYNC251 -- the generator's own loop is held up
            return OK

        return send()

    figures = await report_of(send_blocking, rate=100, total_s=0.5)
    assert figures.n_calls == 50
    assert figures.late_ms.max >= 200
    assert figures.latency_ms.max >= 290
    assert "figures are its own" in figures.generator.fault


async def test_closed_loop_keeps_the_number_of_clients():
    """Never more calls under way than clients, and never fewer while the time runs."""
    under_way, calls, seen = 0, [], set()

    async def send(_i):
        nonlocal under_way
        under_way += 1
        await asyncio.sleep(0.005)
        seen.add(under_way)
        under_way -= 1
        return OK

    await closed_loop(send, itertools.count(), calls.append, clients=4, total_s=0.2)
    assert max(seen) == 4
    assert len(calls) >= 40
    assert [call.due_s for call in calls] == [call.sent_s for call in calls]


async def test_calls_keep_their_numbers():
    """A worker's calls are numbered in the schedule of all, so that queries are shared out."""
    numbers = []

    async def send(i):
        numbers.append(i)
        await asyncio.sleep(0)
        return OK

    due = ((i, i / 1000) for i in range(1, 100, 2))
    await open_loop(send, due, lambda _: None)
    assert sorted(numbers) == list(range(1, 100, 2))
