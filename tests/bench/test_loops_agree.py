"""Both loops against servers of known behaviour, in simulated time: exact, whatever the machine."""

import asyncio
import itertools

import numpy as np
import pytest

from bench.simulated_time import SimulatedLoop, run_simulated
from shoal.bench.drive import closed_loop, open_loop
from shoal.bench.plan import LoadPlan
from shoal.bench.report import LoadReport, summarize
from shoal.bench.schedule import Arrivals, Stage, due_times
from shoal.bench.tally import Tally
from shoal.bench.target import Reply

OK = Reply(code="OK")
CLIENTS = 20


def closed(serve, *, clients=CLIENTS, duration_s=10.0) -> LoadReport:
    """A closed loop's report; `serve(number)` awaits what the server takes."""
    stage = Stage(clients=clients, warmup_s=1.0, duration_s=duration_s)
    tally = Tally(stage, ())

    async def run(_: SimulatedLoop) -> None:
        numbers = itertools.count()
        await closed_loop(serve, numbers, tally.record, clients=clients, total_s=stage.total_s)

    run_simulated(run)
    return summarize(tally, LoadPlan(target="x:1", clients=clients))


def opened(serve, rate, arrivals: Arrivals = "constant", *, duration_s=10.0) -> LoadReport:
    """An open loop's report."""
    stage = Stage(rate=rate, arrivals=arrivals, warmup_s=1.0, duration_s=duration_s)
    tally = Tally(stage, ())

    async def run(_: SimulatedLoop) -> None:
        await open_loop(serve, enumerate(due_times(stage)), tally.record)

    run_simulated(run)
    return summarize(tally, LoadPlan(target="x:1", rate=rate))


@pytest.mark.parametrize("arrivals", ["constant", "poisson"])
def test_on_a_healthy_server_both_loops_agree(rng, arrivals):
    """A server that is never full takes what it takes, whoever asks: 25 ms at the median with a
    long tail. The open loop at the closed one's rate must show the same percentiles, within what
    some 10,000 draws of the tail scatter, and as many answers.
    """
    times_s = rng.lognormal(np.log(0.025), 0.8, 400_000)

    async def serve(number: int) -> Reply:
        await asyncio.sleep(times_s[number % len(times_s)])
        return OK

    by_callers = closed(serve, duration_s=20.0)
    by_rate = opened(serve, by_callers.calls_per_s, arrivals, duration_s=20.0)
    assert by_rate.calls_per_s == pytest.approx(by_callers.calls_per_s, rel=0.03)
    for name, noise in (("p50", 0.02), ("p90", 0.03), ("p99", 0.06)):
        there, here = getattr(by_callers.latency_ms, name), getattr(by_rate.latency_ms, name)
        assert here == pytest.approx(there, rel=noise), name
    assert by_callers.latency_ms.p50 == pytest.approx(25, rel=0.02)
    assert not by_rate.generator.fault


def test_on_a_full_server_they_don_t():
    """Why the open loop is there at all: four at a time, 20 ms each, is 200 a second. Eight callers
    see 40 ms for ever; 220 a second wait ever longer, up to a tenth of the run at its end.
    """

    def server():
        places = asyncio.Semaphore(4)

        async def serve(_: int) -> Reply:
            async with places:
                await asyncio.sleep(0.02)
            return OK

        return serve

    by_callers = closed(server(), clients=8)
    by_rate = opened(server(), 220.0)
    assert by_callers.calls_per_s == pytest.approx(200, rel=0.01)
    assert by_callers.latency_ms.p99 == pytest.approx(40, rel=0.01)
    assert by_rate.calls_per_s == pytest.approx(200, rel=0.01)
    assert by_rate.latency_ms.max == pytest.approx(1_000, rel=0.15)


@pytest.mark.parametrize(("rate", "is_bottleneck"), [(100.0, False), (300.0, True)])
def test_a_generator_that_is_the_bottleneck_is_told(rate, is_bottleneck):
    """4 ms of its own work a call let it send 250 a second, whatever the server: past that it is
    ever later, which is in the latencies, and the report says whose it is.
    """
    stage = Stage(rate=rate, warmup_s=0.0, duration_s=4.0)
    tally = Tally(stage, ())

    async def run(loop: SimulatedLoop) -> None:
        async def serve(_: int) -> Reply:
            loop.work(0.004)
            await asyncio.sleep(0.05)
            return OK

        await open_loop(serve, enumerate(due_times(stage)), tally.record)

    run_simulated(run)
    report = summarize(tally, LoadPlan(target="x:1", rate=rate))
    assert bool(report.generator.fault) is is_bottleneck
    assert report.n_calls == 4 * rate  # late calls are sent all the same
    if is_bottleneck:
        assert report.generator.lag_share > 0.5
        assert report.latency_ms.max >= 4 * rate * 4 - 4_000  # work for 4.8 s, due in 4
