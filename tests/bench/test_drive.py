"""The loops that send load, against servers that are functions, in simulated time: exact."""

import asyncio
import itertools

import pytest

from bench.simulated_time import SimulatedLoop, run_simulated
from shoal.bench.drive import closed_loop, open_loop
from shoal.bench.plan import LoadPlan
from shoal.bench.report import LoadReport, summarize
from shoal.bench.schedule import Stage, due_times
from shoal.bench.tally import Tally
from shoal.bench.target import Reply

OK = Reply(code="OK")


def report_of(serve, *, rate, total_s) -> LoadReport:
    """An open loop's report; `serve(loop, number)` awaits what the server takes."""
    stage = Stage(rate=rate, warmup_s=0.0, duration_s=total_s)
    tally = Tally(stage, ())

    async def run(loop: SimulatedLoop) -> None:
        async def send(number):
            await serve(loop, number)
            return OK

        await open_loop(send, enumerate(due_times(stage)), tally.record)

    run_simulated(run)
    return summarize(tally, LoadPlan(target="x:1", rate=rate))


def calls_of(serve, *, clients, total_s) -> list:
    """A closed loop's calls; `serve(loop, number)` as above."""
    calls = []

    async def run(loop: SimulatedLoop) -> None:
        async def send(number):
            await serve(loop, number)
            return OK

        await closed_loop(send, itertools.count(), calls.append, clients=clients, total_s=total_s)

    run_simulated(run)
    return calls


def frozen(for_s):
    """A server that answers at once, but nothing in the first `for_s`."""
    thaws_s = []

    async def serve(loop, _number):
        if not thaws_s:
            thaws_s.append(loop.time() + for_s)
        await asyncio.sleep(max(0.001, thaws_s[0] - loop.time()))

    return serve


def test_a_frozen_server_is_not_forgiven():
    """100 calls a second for 1 s against a server that freezes for the first 0.6 s: the call due at
    t < 0.6 is answered at 0.6, so 60 calls wait uniformly from 0 to 0.6 s and 40 hardly at all. Of
    100 sorted, the 50th is the 10th of the 60: 0.1 s; the 90th is the 50th of them: 0.5 s. A loop
    that waits for answers would have sent one call in that time, and shown a median near 0.
    """
    figures = report_of(frozen(0.6), rate=100, total_s=1.0)
    assert figures.n_calls == 100
    assert figures.latency_ms.p50 == pytest.approx(100, rel=0.01)
    assert figures.latency_ms.p90 == pytest.approx(500, rel=0.01)
    assert figures.latency_ms.max == pytest.approx(600, rel=0.01)
    assert not figures.generator.fault


def test_late_calls_are_sent_and_their_lateness_fails_the_run():
    """When the generator itself is held up, no call is skipped, and the report says whose it was:
    0.3 s of the loop's own, which is all that these calls wait for.
    """

    async def held_up_once(loop, number):
        if number == 0:
            loop.work(0.3)

    figures = report_of(held_up_once, rate=100, total_s=0.5)
    assert figures.n_calls == 50
    # the second call, due at 0.01, is the latest; the first waits for itself
    assert figures.late_ms.max == pytest.approx(290, rel=0.01)
    assert figures.latency_ms.max == pytest.approx(300, rel=0.01)
    assert "figures are its own" in figures.generator.fault


def test_closed_loop_keeps_the_number_of_clients():
    """Never more calls under way than clients, and never fewer while the time runs."""
    under_way, seen = 0, []

    async def serve(_loop, _number):
        nonlocal under_way
        under_way += 1
        await asyncio.sleep(0.005)
        seen.append(under_way)
        under_way -= 1

    calls = calls_of(serve, clients=4, total_s=0.1999)
    assert len(calls) == 4 * 40
    assert seen == [4] * 157 + [3, 2, 1], "fewer only once nobody sends any more"
    assert [call.due_s for call in calls] == [call.sent_s for call in calls]


def test_a_closed_loop_waits_for_answers():
    """The freeze of 0.4 s costs two clients a call each; the others show nothing of it."""
    calls = calls_of(frozen(0.4), clients=2, total_s=0.8)
    waits_s = sorted(call.done_s - call.sent_s for call in calls)
    assert waits_s[-2:] == pytest.approx([0.4, 0.4], rel=0.01)
    assert waits_s[-3] == pytest.approx(0.001, rel=0.01)
    assert len(calls) == pytest.approx(2 + 2 * 400, rel=0.01)


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
