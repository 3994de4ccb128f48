"""Shards that die, flap or lie, under an open loop."""

import asyncio
import random
import time

import pytest
from faults import stub
from faults.load import K, asking, quantile_s, requests_of, under_load, until
from faults.mini import EJECTED

from shoal.v1 import search_pb2 as pb

pytestmark = [pytest.mark.end_to_end, pytest.mark.timeout(300)]


def outcome_of(response, shard):
    return response.shards[shard].outcome


async def restart(mini, process):
    """As a supervisor would: the same program on the same port."""
    await asyncio.to_thread(mini.started, process)


@pytest.mark.faults
async def test_killed_shards_are_asked_of_their_siblings(mini, oracle, rate, record, steady):
    """Fault 1: a shard is killed mid-query with two replicas, 20 times at random phases."""
    router = mini.router(2)
    chance = random.Random(1)
    ejected_s = []

    async def kill_them(run):
        for _ in range(20):
            victim = mini.shard(chance.randrange(stub.N_SHARDS), chance.randrange(2))
            await asyncio.sleep(chance.random() * 0.2)
            victim.kill()
            ejected_s.append(
                await until(lambda v=victim: router.replicas()[v.address].state == EJECTED, 5,
                            "the killed replica is ejected")
            )  # fmt: skip
            await restart(mini, victim)
            await asyncio.to_thread(router.wait_whole)

    async with asking(router, requests_of(oracle)) as ask:
        memory = steady(router.process)
        run = await under_load(ask, oracle, kill_them, rate=rate)
    run.check()
    memory()
    failed = [seen for seen in run.seen if seen.code != "OK"]
    partial = [s for s in run.seen if s.response is not None and s.response.coverage != 1.0]
    record.at_most(f"failed of {len(run.seen)} answers", 0, len(failed))
    record.at_most("answers with coverage below 1", 0, len(partial))
    record.time("p99 over the whole fault", run.base_s + 0.1, quantile_s(run.during, 0.99))
    record.time("a killed replica is ejected", 1.0, max(ejected_s))


@pytest.mark.faults
async def test_a_killed_only_replica_is_told(mini, oracle, rate, record):
    """Fault 2: a shard's only replica is killed, min_coverage 0.5."""
    router = mini.router(1)
    victim = mini.shard(1)
    back_s = []

    async def kill_it(run):
        victim.kill()
        await asyncio.sleep(2.0)
        await restart(mini, victim)
        begun_s, n_before = time.monotonic(), len(run.seen)
        while not any(s.response and s.response.coverage == 1.0 for s in run.seen[n_before:]):
            assert time.monotonic() < begun_s + 10, "coverage never came back"
            await asyncio.sleep(0.01)
        back_s.append(time.monotonic() - begun_s)

    async with asking(router, requests_of(oracle, min_coverage=0.5)) as ask:
        run = await under_load(ask, oracle, kill_it, rate=rate)
    run.check()
    partial = [s for s in run.seen if s.response is not None and s.response.coverage < 1.0]
    record.at_most(f"failed of {len(run.seen)} answers", 0, len(run.seen) - run.codes()["OK"])
    record.at_least("partial answers", 10, len(partial))
    told = {pb.Outcome.Name(outcome_of(s.response, 1)) for s in partial}
    record.exactly("the killed shard's outcome", {"OUTCOME_DOWN"}, told)
    record.time("coverage is 1 after the shard is loaded", 2.0, back_s[0])


@pytest.mark.faults
async def test_missing_coverage_fails_fast(mini, oracle, rate, record):
    """Fault 3: a shard's only replica is killed, min_coverage 1."""
    router = mini.router(1)
    victim = mini.shard(1)

    async def kill_it(run):
        victim.kill()
        await asyncio.sleep(3.0)
        await restart(mini, victim)

    async with asking(router, requests_of(oracle)) as ask:
        run = await under_load(ask, oracle, kill_it, rate=rate)
    run.check()
    refused = [s for s in run.seen if s.code != "OK"]
    record.exactly("codes of refusals", {"UNAVAILABLE"}, {s.code for s in refused})
    record.time("the slowest refusal", 0.1, max(s.latency_s for s in refused))
    told = {s.reason.partition(":")[0] for s in refused}
    record.exactly("the error that its ErrorInfo tells", {"InsufficientCoverageError"}, told)


@pytest.mark.faults
async def test_a_flapping_shard_makes_no_storm(mini, oracle, rate, record):
    """Fault 6: a replica is killed and restarted every 2 s, 15 times, with two replicas."""
    router = mini.router(2)
    victim = mini.shard(3)
    calls = []

    async def flap(run):
        calls.append(await asyncio.to_thread(router.n_shard_calls))
        n_before = len(run.seen)
        for _ in range(15):
            begun_s = time.monotonic()
            victim.kill()
            await restart(mini, victim)
            await asyncio.sleep(max(0.0, begun_s + 2.0 - time.monotonic()))
        calls.append(await asyncio.to_thread(router.n_shard_calls))
        calls.append(len(run.seen) - n_before)

    async with asking(router, requests_of(oracle)) as ask:
        run = await under_load(ask, oracle, flap, rate=rate)
    run.check()
    ok = run.codes(run.during).get("OK", 0) / len(run.during)
    record.at_least("share of good answers", 0.995, ok)
    offered = stub.N_SHARDS * calls[2]
    record.at_most("calls to shards over those offered", 1.2, (calls[1] - calls[0]) / offered)


async def test_no_shard_at_all(mini, oracle, record):
    """Fault 7: every shard is killed: an empty answer where that is allowed, else UNAVAILABLE."""
    router = mini.router(1)
    for process in mini.shards(1):
        process.kill()
    await until(lambda: all(r.state == EJECTED for r in router.replicas().values()), 60,
                "all are ejected")  # fmt: skip
    async with (
        asking(router, requests_of(oracle, min_coverage=0.0)) as ask_any,
        asking(router, requests_of(oracle, min_coverage=1e-6)) as ask_some,
    ):
        await ask_any(0, 30.0)  # connects
        took_s = []
        for i in range(20):
            for ask in (ask_any, ask_some):
                begun_s = time.perf_counter()
                code, response, _ = await ask(i, 30.0)
                took_s.append(time.perf_counter() - begun_s)
                if ask is ask_any:
                    assert code == "OK"
                    assert response.coverage == 0.0
                    assert not response.results[0].hits
                    assert not (why := oracle.fault(response, [i], K)), why
                else:
                    assert code == "UNAVAILABLE"
    record.exactly("min_coverage 0", "OK, coverage 0", "OK, coverage 0")
    record.exactly("min_coverage above 0", "UNAVAILABLE", code)
    record.time("the slowest of 40", 0.1, max(took_s))


@pytest.mark.faults
async def test_lies_are_never_merged(mini, oracle, record, mini_index):
    """Fault 8: a shard's every reply is false: unsorted, NaN, doubled, foreign, cut, too many."""
    mini.heal(1)
    liar = mini.other(
        "liar", "faults.lying_shard", "--index", str(mini_index.folder), "--shard", "1",
        "--version", "1", "--seed", "8",
    )  # fmt: skip
    router = mini.router(1, instead={mini.shard(1).address: liar.address})
    wrong, outcomes = [], {}
    numbers = iter(range(5_000))
    end_s = time.monotonic() + 120.0

    async with asking(router, requests_of(oracle, min_coverage=0.5)) as ask:

        async def client():
            for i in numbers:
                if time.monotonic() > end_s:
                    return
                code, response, _ = await ask(i, 5.0)
                told = code if response is None else pb.Outcome.Name(outcome_of(response, 1))
                outcomes[told] = outcomes.get(told, 0) + 1
                if response is not None and (why := oracle.fault(response, [i % 64], K)):
                    wrong.append(why)

        await asyncio.gather(*(client() for _ in range(6)))
    record.at_most(f"wrong answers of {sum(outcomes.values())}", 0, len(wrong))
    assert outcomes.get("OUTCOME_INVALID_REPLY"), outcomes
    # a liar may be left out after some lies; no lie may ever pass for an answer, or fail the call
    allowed = {"OUTCOME_INVALID_REPLY", "OUTCOME_DOWN"}
    record.only("what became of the liar's shard", allowed, set(outcomes))
