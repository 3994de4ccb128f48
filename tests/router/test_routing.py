"""Replicas that die, freeze, slow down and lie under questions, over real sockets."""

import asyncio
import random

import grpc
import pytest
from fakes.asking import check_partial, refusal, request
from fakes.cluster import eventually, never_late, running, text_request
from prometheus_client import REGISTRY

from router.standing import State
from shoal.errors import CancelledError, InternalError, OverloadedError
from shoal.rpc.status import error_of
from shoal.v1 import priority_pb2
from shoal.v1 import search_pb2 as pb


def count(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


def state(cluster, shard: int, replica: int) -> State:
    return cluster.registry.served.indexes["books"].shards[shard][replica].standing.state


async def until_left_out(cluster) -> None:
    """Asks, and gets whole answers, until the first replica is healthy no more.

    It takes some tenths of a second: a replica with a fresh strike is asked only where its sibling
    has more to do.
    """
    async with asyncio.timeout(60.0):
        while state(cluster, 0, 0) is State.HEALTHY:
            assert (await cluster.search(request(), timeout_s=60.0)).coverage == 1.0


async def until_healthy(cluster, shard: int, replica: int) -> None:
    """Asks, and gets whole answers, until this replica has won its trial.

    A stall of this machine may lose it a trial, and then somebody must ask for there to be another.
    """
    async with asyncio.timeout(60.0):
        while state(cluster, shard, replica) is not State.HEALTHY:
            assert (await cluster.search(request())).coverage == 1.0


async def until_hedged(cluster) -> None:
    """Asks until the p95 of every shard is known."""
    for _ in range(40):
        assert (await cluster.search(request())).coverage == 1.0


@pytest.mark.parametrize("seed", range(5))
async def test_a_replica_killed_under_questions_costs_none(tmp_path, monkeypatch, seed):
    """Fault 1: with a sibling nobody notices; every answer is whole, and the dead one is out."""
    never_late(monkeypatch)
    chance = random.Random(seed)
    async with running(tmp_path, n_replicas=2) as cluster:
        victim = cluster.shards[1][chance.randrange(2)]
        asking = [asyncio.ensure_future(cluster.search(request())) for _ in range(30)]
        for _ in range(chance.randrange(40)):
            await asyncio.sleep(0)
        await victim.stop()
        asking += [asyncio.ensure_future(cluster.search(request())) for _ in range(30)]
        for answer in await asyncio.gather(*asking):
            assert answer.coverage == 1.0
            assert {s.outcome for s in answer.shards} == {pb.OUTCOME_OK}
        await eventually(lambda: sorted(cluster.usable()[1]) == [False, True])


async def test_a_dead_shard_is_refused_while_others_still_search(tmp_path):
    """Fault 3: with min_coverage 1 the refusal waits for nobody, least of all a deadline."""
    async with running(tmp_path) as cluster:
        for replica in cluster.replicas:
            replica.script.gate.clear()
        asking = asyncio.ensure_future(cluster.search(request(), timeout_s=60.0))
        await eventually(lambda: all(r.script.n_under_way for r in cluster.replicas))
        await cluster.shards[1][0].stop()
        failure = await refusal(asking)
        assert failure.code() is grpc.StatusCode.UNAVAILABLE
        assert "shard 1 DOWN" in failure.details()
        await eventually(lambda: cluster.n_under_way == 0)
        await eventually(lambda: not cluster.shards[0][0].script.n_under_way)


async def test_a_frozen_replica_is_left_out_and_comes_back(tmp_path):
    """Fault 4: its callers are moved to the sibling; it is out by itself and back by itself."""
    async with running(tmp_path, n_replicas=2) as cluster:
        script = cluster.shards[1][0].script
        script.freeze()
        cluster.check_within(1, 0, 0.1)
        asking = [cluster.search(request(), timeout_s=100.0) for _ in range(20)]
        async with asyncio.timeout(50.0):  # not at the deadline
            for answer in await asyncio.gather(*asking):
                assert answer.coverage == 1.0
        await eventually(lambda: cluster.usable()[1] == [False, True])
        cluster.check_within(1, 0, 10.0)
        script.thaw()
        await eventually(lambda: cluster.usable()[1] == [True, True])
        assert state(cluster, 1, 0) is State.TRIAL
        calls = script.n_searches
        await until_healthy(cluster, 1, 0)
        assert script.n_searches > calls


async def test_a_trial_ends_under_slow_bulk_calls(tmp_path):
    """A shard that came back while only long calls are made is soon a whole one again."""
    async with running(tmp_path, n_shards=1) as cluster:
        fake = cluster.shards[0][0]
        await fake.stop()
        await eventually(lambda: cluster.usable() == [[False]])
        await fake.start()
        await eventually(lambda: state(cluster, 0, 0) is State.TRIAL)
        fake.script.gate.clear()
        bulk = request(priority=priority_pb2.PRIORITY_BULK)
        asking = asyncio.ensure_future(cluster.search(bulk, timeout_s=60.0))
        await eventually(lambda: fake.script.n_under_way)
        n_checks = fake.n_descriptions
        await eventually(lambda: fake.n_descriptions > n_checks + 8)  # some 0.4 s
        fake.script.gate.set()
        assert (await asking).coverage == 1.0
        assert state(cluster, 0, 0) is State.HEALTHY


async def test_a_frozen_replica_without_sibling_is_found_by_its_checks(tmp_path):
    """Nobody asks it, or somebody waits: either way it is out, and the next refusal is fast."""
    async with running(tmp_path) as cluster:
        cluster.shards[1][0].script.freeze()
        cluster.check_within(1, 0, 0.1)
        await eventually(lambda: cluster.usable() == [[True], [False]])
        failure = await refusal(cluster.search(request(), timeout_s=60.0))
        assert failure.code() is grpc.StatusCode.UNAVAILABLE
        answer = await cluster.search(request(min_coverage=0.2), timeout_s=60.0)
        check_partial(cluster, answer, pb.OUTCOME_DOWN)


async def test_a_slow_replica_is_hedged_and_then_avoided(tmp_path):
    """Fault 5: the sibling answers; three such calls and it is asked only on trial."""
    async with running(tmp_path, n_shards=1, n_replicas=2, hedge_share=1.0) as cluster:
        await until_hedged(cluster)
        hedges = count("shoal_hedges_total")
        slow = cluster.shards[0][0].script
        slow.gate.clear()
        await until_left_out(cluster)
        assert count("shoal_hedges_total") > hedges
        await eventually(lambda: slow.n_under_way == 0)  # what was overtaken was cancelled
        slow.gate.set()
        await eventually(lambda: state(cluster, 0, 0) is State.TRIAL)
        await until_healthy(cluster, 0, 0)


async def test_the_last_shard_is_not_waited_for_to_the_end(tmp_path):
    """Fault 5 without a sibling: a part of the time left, once min_coverage has answered."""
    async with running(tmp_path, min_wait_factor=0.02) as cluster:
        cluster.shards[1][0].script.gate.clear()
        answer = await cluster.search(request(min_coverage=0.2))
        check_partial(cluster, answer, pb.OUTCOME_LATE)
        assert "once min_coverage was reached" in answer.shards[1].detail
        await eventually(lambda: cluster.n_under_way == 0)


async def test_a_flapping_shard_makes_no_storm(tmp_path, monkeypatch):
    """Fault 6: calls to shards stay within 1.2 of what was asked, and every answer is whole."""
    never_late(monkeypatch)
    async with running(tmp_path, n_replicas=2) as cluster:
        calls, n_asked = cluster.n_searches, 0
        flapping = cluster.shards[1][0]
        for _ in range(4):
            await flapping.stop()
            for _ in range(15):
                assert (await cluster.search(request())).coverage == 1.0
            await flapping.start()
            await eventually(lambda: cluster.usable()[1] == [True, True])
            for _ in range(15):
                assert (await cluster.search(request())).coverage == 1.0
            n_asked += 2 * 30
        assert cluster.n_searches - calls <= 1.2 * n_asked


@pytest.mark.parametrize("min_coverage", [0.0, 1e-9, 1.0])
async def test_all_shards_down(tmp_path, min_coverage):
    """Fault 7: an empty answer where 0 is enough; UNAVAILABLE for anything above, and at once."""
    async with running(tmp_path, n_replicas=2) as cluster:
        for replica in cluster.replicas:
            await replica.stop()
        for _ in range(2):  # found out by the call, then known
            asking = cluster.search(request(min_coverage=min_coverage), timeout_s=60.0)
            if min_coverage:
                assert (await refusal(asking)).code() is grpc.StatusCode.UNAVAILABLE
                continue
            answer = await asking
            assert answer.coverage == 0.0
            assert not answer.results[0].hits
            assert {s.outcome for s in answer.shards} == {pb.OUTCOME_DOWN}
            assert all(s.detail for s in answer.shards)


async def test_a_liar_is_counted_and_its_sibling_answers(tmp_path, monkeypatch):
    """Fault 8 with a sibling: whole answers, and the liar is soon asked no more."""
    never_late(monkeypatch)  # nor hedged: a lie that nobody waits for any more isn't counted
    settings = {"n_shards": 1, "n_replicas": 2, "recheck_s": 5.0, "hedge_share": 0.0}
    async with running(tmp_path, **settings) as cluster:
        dropped = count("shoal_invalid_replies_total", shard="0")
        liar = cluster.shards[0][0].script
        liar.mutate = lambda reply: setattr(reply, "version", 2)
        await until_left_out(cluster)
        assert state(cluster, 0, 0) is State.DOUBTED
        assert count("shoal_invalid_replies_total", shard="0") == dropped + 3
        assert liar.n_searches == 3


@pytest.mark.parametrize(
    "failure", [CancelledError("stopping"), OverloadedError("full", retry_after_s=0.1)]
)
async def test_what_a_sibling_can_answer_is_asked_again(tmp_path, failure):
    """CANCELLED that nobody asked for, and a full replica: searching is safe to repeat."""
    async with running(tmp_path, n_shards=1, n_replicas=2) as cluster:
        retries = count("shoal_retries_total", component="shard")
        cluster.shards[0][0].script.raises = failure
        while count("shoal_retries_total", component="shard") == retries:
            answer = await cluster.search(request())
            assert answer.coverage == 1.0
            assert answer.shards[0].outcome == pb.OUTCOME_OK


@pytest.mark.parametrize("n_full", [1, 2])
async def test_full_shards_say_when_to_come_back(tmp_path, n_full):
    """RESOURCE_EXHAUSTED with the longest of their times: overload is no outage."""
    soon = {"min_wait_factor": 0.01, "max_wait_factor": 0.01}
    async with running(tmp_path, n_shards=3, **soon) as cluster:
        for shard, after_s in list(enumerate((3.0, 7.0)))[-n_full:]:
            cluster.shards[shard][0].script.raises = OverloadedError("full", retry_after_s=after_s)
        if n_full == 1:  # the others may be on their way still: given up, but not at fault
            cluster.shards[0][0].script.gate.clear()
        error = error_of(await refusal(cluster.search(request(), timeout_s=60.0)))
        assert isinstance(error, OverloadedError)
        assert error.retry_after_s in ((7.0,) if n_full == 1 else (3.0, 7.0))
        assert (await cluster.search(request(min_coverage=0.0))).coverage < 1.0


async def test_a_full_shard_beside_a_dead_one_is_no_overload(tmp_path):
    """Coming back when the one has room would find the other missing still."""
    async with running(tmp_path, n_shards=2) as cluster:
        cluster.shards[0][0].script.raises = OverloadedError("full", retry_after_s=0.1)
        cluster.shards[1][0].script.raises = InternalError("bug")
        asked = request(min_coverage=0.01)
        assert (await refusal(cluster.search(asked))).code() is grpc.StatusCode.UNAVAILABLE


async def test_retries_end_with_their_budget(tmp_path, monkeypatch):
    """Where every call fails at one replica and retries are spent, the outcome tells both."""
    never_late(monkeypatch)
    async with running(tmp_path, n_shards=1, n_replicas=2, retry_share=0.0) as cluster:
        for replica in cluster.replicas:
            replica.script.raises = OverloadedError("full", retry_after_s=0.1)
        details = []
        for _ in range(15):
            answer = await cluster.search(request(min_coverage=0.0))
            assert answer.shards[0].outcome == pb.OUTCOME_OVERLOADED
            details.append(answer.shards[0].detail)
        assert details[0] == "full"
        assert "retry budget is spent" in details[-1]
        assert cluster.n_searches == 15 + 10


async def test_a_bug_is_not_asked_again(tmp_path, monkeypatch):
    """A query that breaks one replica would break the next."""
    never_late(monkeypatch)
    async with running(tmp_path, n_shards=1, n_replicas=2) as cluster:
        for replica in cluster.replicas:
            replica.script.raises = InternalError("bug")
        answer = await cluster.search(request(min_coverage=0.0))
        assert answer.shards[0].outcome == pb.OUTCOME_DOWN
        assert cluster.n_searches == 1


async def test_200_cancelled_searches_leave_nothing(tmp_path):
    """Fault 36: calls, lanes and tasks are as before; the shards saw the cancellations."""
    async with running(tmp_path, n_replicas=2) as cluster:
        await cluster.search(request())
        n_tasks = len(asyncio.all_tasks())
        scripts = [replica.script for replica in cluster.replicas]
        for script in scripts:
            script.gate.clear()
        for _ in range(10):
            calls = [cluster.stub.Search(request()) for _ in range(20)]
            await eventually(lambda: all(script.n_under_way for script in scripts))
            for call in calls:
                call.cancel()
            await asyncio.gather(*calls, return_exceptions=True)
            await eventually(lambda: cluster.n_under_way == 0)
            await eventually(lambda: not any(script.n_under_way for script in scripts))
        for script in scripts:
            script.gate.set()
        assert (await cluster.search(request())).coverage == 1.0
        await eventually(lambda: len(asyncio.all_tasks()) <= n_tasks + 2)


async def test_a_frozen_encoders_questions_move_to_its_sibling(tmp_path):
    """Fault 10 with a sibling: the text is encoded there, long before the deadline."""
    async with running(tmp_path, n_encoders=2) as cluster:
        frozen = cluster.encoders[0]
        frozen.gate.clear()
        replica = cluster.registry.served.encoders[0]
        asking = [cluster.search(text_request("a"), timeout_s=60.0) for _ in range(8)]
        waiting = asyncio.gather(*asking)
        await eventually(lambda: replica.load > 0)
        await frozen.stop()
        for answer in await waiting:
            assert answer.coverage == 1.0
