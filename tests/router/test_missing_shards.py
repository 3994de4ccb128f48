"""Shards that die, hang and refuse, and callers that leave: exact coverage or an error."""

import asyncio

import grpc
import pytest
from fakes.asking import VECTOR, check_partial, refusal, request
from fakes.cluster import eventually, hits_of, never_late, running, text_request
from google.rpc import error_details_pb2, status_pb2

from shoal.errors import FailedPreconditionError, InternalError, OverloadedError
from shoal.rpc.status import error_of
from shoal.v1 import search_pb2 as pb


async def test_a_dead_shard_is_an_outcome(tmp_path):
    """Killed between two searches: the very next answer is exact for what is left."""
    async with running(tmp_path, n_shards=4) as cluster:
        await cluster.shards[1][0].stop()
        answer = await cluster.search(request(min_coverage=0.5))
        check_partial(cluster, answer, pb.OUTCOME_DOWN)
        again = await cluster.search(request(min_coverage=0.5))
        check_partial(cluster, again, pb.OUTCOME_DOWN)


async def test_too_little_coverage_fails_fast_and_forbids_retries(tmp_path):
    """UNAVAILABLE with ErrorInfo and pushback, without waiting for a deadline."""
    async with running(tmp_path, max_wait_s=60.0) as cluster:
        await cluster.shards[1][0].stop()
        for _ in range(2):
            async with asyncio.timeout(50.0):
                failure = await refusal(cluster.search(request(), timeout_s=100.0))
            assert failure.code() is grpc.StatusCode.UNAVAILABLE
            trailing = dict(failure.trailing_metadata())
            assert trailing["grpc-retry-pushback-ms"] == "-1"
            status = status_pb2.Status.FromString(trailing["grpc-status-details-bin"])
            info = error_details_pb2.ErrorInfo()
            assert status.details[0].Unpack(info)
            assert (info.reason, info.domain) == ("INSUFFICIENT_COVERAGE", "shoal")


async def test_coverage_zero_is_allowed_where_asked_for(tmp_path):
    """All shards down and min_coverage 0: OK, empty, coverage 0."""
    async with running(tmp_path) as cluster:
        for replica in cluster.replicas:
            await replica.stop()
        answer = await cluster.search(request(min_coverage=0.0))
        assert answer.coverage == 0.0
        assert [len(result.hits) for result in answer.results] == [0]
        assert {s.outcome for s in answer.shards} == {pb.OUTCOME_DOWN}


async def test_a_hanging_shard_is_late_before_the_deadline(tmp_path):
    """The others' hits, with text, come back in time; the hanging call is given up."""
    async with running(tmp_path, min_wait_factor=0.002) as cluster:
        script = cluster.shards[1][0].script
        script.gate.clear()
        for k in (5, 200):  # with text inline, and with a fetch round after the wait
            answer = await cluster.search(request(min_coverage=0.1, k=k), timeout_s=60.0)
            assert answer.shards[1].outcome == pb.OUTCOME_LATE
            expected = cluster.corpus.search(VECTOR[0], k, shards=[0])
            assert hits_of(answer.results[0]) == expected
            assert answer.timings.total_ms < 50_000  # and not at the deadline
        await eventually(lambda: cluster.n_under_way == 0)
        await eventually(lambda: script.n_under_way == 0)


@pytest.mark.parametrize(
    ("refuses", "code", "timeout_ms"),
    [
        (None, grpc.StatusCode.DEADLINE_EXCEEDED, 500),
        # the refusal must come before the deadline, however slow this machine is
        (InternalError("bug"), grpc.StatusCode.UNAVAILABLE, 2_000),
    ],
    ids=["late alone", "late beside a fault"],
)
async def test_what_time_alone_was_too_short_for_is_a_spent_deadline(
    tmp_path, refuses, code, timeout_ms
):
    """Shard 0 has answered and shard 2 is late: nothing is known to be down, unless shard 1 is."""
    async with running(tmp_path, n_shards=3) as cluster:
        cluster.shards[1][0].script.raises = refuses
        cluster.shards[2][0].script.gate.clear()
        # an item's deadline is the router's alone to tell of: the stream's is far away
        asked = request(min_coverage=0.5 if refuses else 1.0)
        item = pb.StreamSearchRequest(item_id="a", request=asked, timeout_ms=timeout_ms)
        told = [answer async for answer in cluster.stub.StreamSearch(iter([item]), timeout=60.0)]
        assert told[0].status.code == code.value[0], told[0]
        assert "shard 2 LATE" in told[0].status.message


async def test_another_replica_answers_for_a_dead_one(tmp_path, monkeypatch):
    """R=2, one replica dies under load: not one failure, full coverage all along."""
    never_late(monkeypatch)
    async with running(tmp_path, n_replicas=2) as cluster:

        async def client() -> None:
            for _ in range(25):
                answer = await cluster.search(request())
                assert answer.coverage == 1.0
                assert hits_of(answer.results[0]) == cluster.corpus.search(VECTOR[0], 5)

        clients = asyncio.gather(*(client() for _ in range(8)))
        await eventually(lambda: cluster.n_searches > 20)
        await cluster.shards[0][1].stop()
        await clients


async def test_a_restarted_replica_is_used_again(tmp_path):
    """Down, then back on its port: coverage returns to 1.0 without help."""
    async with running(tmp_path) as cluster:
        shard = cluster.shards[1][0]
        await shard.stop()
        await refusal(cluster.search(request()))
        assert cluster.usable() == [[True], [False]]
        await shard.start()
        await eventually(lambda: cluster.usable() == [[True], [True]])
        assert (await cluster.search(request())).coverage == 1.0


@pytest.mark.parametrize(
    ("failure", "outcome"),
    [
        (OverloadedError("full", retry_after_s=0.1), pb.OUTCOME_OVERLOADED),
        (FailedPreconditionError("no", reason="WRONG_VERSION"), pb.OUTCOME_WRONG_VERSION),
        (InternalError("bug"), pb.OUTCOME_DOWN),
    ],
)
async def test_a_refusing_shard_is_an_outcome(tmp_path, failure, outcome):
    """What a shard refuses for is told, and the others' hits are returned."""
    async with running(tmp_path) as cluster:
        cluster.shards[1][0].script.raises = failure
        check_partial(cluster, await cluster.search(request(min_coverage=0.2)), outcome)


async def test_failed_fetch_drops_the_shard(tmp_path):
    """A shard that can't give its winners' text is left out of the answer, or it is UNAVAILABLE."""
    async with running(tmp_path) as cluster:
        cluster.shards[1][0].script.raises_on_passages = InternalError("gone")
        answer = await cluster.search(request(k=90, min_coverage=0.2))
        assert answer.coverage == cluster.corpus.coverage(0)
        assert hits_of(answer.results[0]) == cluster.corpus.search(VECTOR[0], 90, shards=[0])
        assert all(hit.passage.text for hit in answer.results[0].hits)
        failure = await refusal(cluster.search(request(k=90)))
        assert failure.code() is grpc.StatusCode.UNAVAILABLE


async def test_a_clients_leaving_empties_the_lanes(tmp_path):
    """Cancelled queries take their calls with them, at the shards too; nothing stays behind."""
    async with running(tmp_path) as cluster:
        scripts = [replica.script for replica in cluster.replicas]
        for script in scripts:
            script.gate.clear()
        calls = [cluster.stub.Search(request()) for _ in range(50)]
        calls += [cluster.stub.Search(text_request("a")) for _ in range(50)]
        await eventually(lambda: all(script.n_under_way == 2 for script in scripts))
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        await eventually(lambda: cluster.n_under_way == 0)
        await eventually(lambda: all(script.n_under_way == 0 for script in scripts))
        for script in scripts:
            script.gate.set()
        assert (await cluster.search(request())).coverage == 1.0


async def test_overload_is_refused_with_a_time_to_come_back(tmp_path):
    """Past max_queries: RESOURCE_EXHAUSTED with RetryInfo, and room again afterwards."""
    async with running(tmp_path, max_queries=10) as cluster:
        for replica in cluster.replicas:
            replica.script.gate.clear()
        admitted = [asyncio.ensure_future(cluster.search(request())) for _ in range(10)]
        await eventually(lambda: cluster.n_under_way == 20)
        error = error_of(await refusal(cluster.search(request())))
        assert isinstance(error, OverloadedError)
        assert error.retry_after_s > 0
        for replica in cluster.replicas:
            replica.script.gate.set()
        await asyncio.gather(*admitted)
        assert (await cluster.search(request())).coverage == 1.0


async def test_an_expired_deadline_costs_the_shards_nothing(tmp_path):
    """1 ms is not enough: DEADLINE_EXCEEDED, whoever notices first."""
    async with running(tmp_path) as cluster:
        for replica in cluster.replicas:
            replica.script.gate.clear()
        for _ in range(20):
            failure = await refusal(cluster.search(request(), timeout_s=0.001))
            assert failure.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        await eventually(lambda: cluster.n_under_way == 0)
