"""Shards that hang or are slow, and networks that break, under an open loop."""

import asyncio
import time

import pytest
from faults import stub
from faults.load import asking, quantile_s, requests_of, under_load, until
from faults.mini import EJECTED
from faults.proxy import Proxy

pytestmark = [pytest.mark.end_to_end, pytest.mark.faults, pytest.mark.timeout(300)]


async def test_a_hanging_shard_is_left_out(mini, oracle, rate, record, steady):
    """Fault 4: a shard is stopped for 10 s with two replicas, and goes on."""
    router = mini.router(2)
    victim = mini.shard(2)
    rejoined_s, ejected_at_s = [], []

    async def stop_it(run):
        begun_s = time.perf_counter()
        victim.stop()
        await until(lambda: router.replicas()[victim.address].state == EJECTED, 10,
                    "the stopped replica is ejected")  # fmt: skip
        ejected_at_s.append(time.perf_counter())
        await asyncio.sleep(max(0.0, begun_s + 10 - time.perf_counter()))
        victim.cont()
        rejoined_s.append(
            await until(lambda: router.replicas()[victim.address].state != EJECTED, 30,
                        "the continued replica is back")
        )  # fmt: skip

    async with asking(router, requests_of(oracle)) as ask:
        memory = steady(router.process)
        run = await under_load(ask, oracle, stop_it, rate=rate)
    run.check()
    memory()
    record.at_most(f"failed of {len(run.seen)} answers", 0, len(run.seen) - run.codes()["OK"])
    slow = [s for s in run.during if s.latency_s > run.base_s + 0.25]
    left_out = run.due(ejected_at_s[0], run.healed_s)
    record.time("a stopped replica is ejected", 1.0, ejected_at_s[0] - run.fault_s)
    record.time("p99 once it is ejected", 1.2 * run.base_s, quantile_s(left_out, 0.99))
    record.time("it rejoins", 3.0, rejoined_s[0])
    record.at_most("queries 250 ms slower than before", 3, len(slow))


@pytest.mark.parametrize("harm", ["half-open", "cut"])
async def test_a_broken_network(mini, oracle, rate, record, harm):
    """Fault 4 (network): a replica's connection is broken for 5 s, and comes back."""
    mini.heal(2)
    victim = mini.shard(0).address
    async with Proxy(victim) as proxy:
        router = await asyncio.to_thread(mini.router, 2, instead={victim: proxy.address})
        ejected_s, rejoined_s = [], []

        def state():
            return router.replicas()[proxy.address].state

        async def break_it(run):
            begun_s = time.monotonic()
            (proxy.stall if harm == "half-open" else proxy.cut)()
            ejected_s.append(await until(lambda: state() == EJECTED, 10, "it is ejected"))
            await asyncio.sleep(max(0.0, begun_s + 5.0 - time.monotonic()))
            proxy.flow()
            rejoined_s.append(await until(lambda: state() != EJECTED, 30, "it is back"))

        async with asking(router, requests_of(oracle)) as ask:
            run = await under_load(ask, oracle, break_it, rate=rate)
    run.check()
    n_failed = len(run.seen) - run.codes()["OK"]
    record.at_most(f"failed of {len(run.seen)} answers", 0, n_failed)
    record.time("it is ejected", 1.0, ejected_s[0])
    record.time("it rejoins", 3.0, rejoined_s[0])


async def test_a_slow_replica_is_hedged(mini, oracle, rate, record):
    """Fault 5 (two replicas): a shard's replica answers 200 ms late; its sibling is asked too."""
    mini.heal(2)
    victim = mini.shard(1).address
    async with Proxy(victim) as proxy:
        router = await asyncio.to_thread(mini.router, 2, instead={victim: proxy.address})
        calls = []

        async def slow_it(run):
            calls.append(await asyncio.to_thread(router.n_shard_calls))
            n_before = len(run.seen)
            proxy.delay_s = 0.2
            await asyncio.sleep(6.0)
            calls.append(await asyncio.to_thread(router.n_shard_calls))
            calls.append(len(run.seen) - n_before)
            proxy.delay_s = 0.0

        async with asking(router, requests_of(oracle)) as ask:
            run = await under_load(ask, oracle, slow_it, rate=rate)
    run.check()
    record.at_most(f"failed of {len(run.seen)} answers", 0, len(run.seen) - run.codes()["OK"])
    hedge_s = quantile_s(run.before, 0.95)
    record.time("p99 while it is slow", hedge_s + 2 * run.base_s, quantile_s(run.during, 0.99))
    extra = (calls[1] - calls[0]) / (stub.N_SHARDS * calls[2]) - 1
    record.at_most("extra calls to shards, as a share", 0.05, extra)


async def test_a_slow_only_replica_is_waited_for_adaptively(mini, oracle, rate, record):
    """Fault 5 (one replica): a shard is slower than what is left; partial answers don't wait."""
    mini.heal(1)
    victim = mini.shard(1).address
    async with Proxy(victim) as proxy:
        router = await asyncio.to_thread(mini.router, 1, instead={victim: proxy.address})

        async def slow_it(run):
            proxy.delay_s = 1.0  # half of the deadline
            await asyncio.sleep(6.0)
            proxy.delay_s = 0.0

        async with asking(router, requests_of(oracle, min_coverage=0.5)) as ask:
            run = await under_load(ask, oracle, slow_it, rate=rate)
    run.check()
    record.at_most(f"failed of {len(run.seen)} answers", 0, len(run.seen) - run.codes()["OK"])
    partial = [s for s in run.seen if s.response is not None and s.response.coverage < 1.0]
    record.at_least("partial answers", 50, len(partial))
    # half was needed and three of four have answered: the last gets 0.05 of the time that is left
    record.time(
        "p50 of partial answers", 0.05 * run.timeout_s + quantile_s(run.before, 0.5) + 0.02,
        quantile_s(partial, 0.5),
    )  # fmt: skip
