"""Live recall in a router: what it tells is right, what it takes is bounded, and it gives way."""

import asyncio
import logging
import math
import time

import grpc
import numpy as np
import pytest
from fakes.asking import VECTOR
from fakes.cluster import Cluster, eventually, hits_of, running, text_request, vector_request
from fakes.corpus import Corpus, vector_of
from prometheus_client import REGISTRY

from router import live_recall
from router.live_recall import pause_s
from router.recall import estimate
from shoal.errors import (
    DeadlineExceededError,
    FailedPreconditionError,
    InternalError,
    OverloadedError,
)
from shoal.internal.v1 import admin_pb2
from shoal.rpc.request_id import current_request_id
from shoal.v1 import priority_pb2
from shoal.v1 import search_pb2 as pb

RECIPE = "IVF64,PQ4"
MEASURING = {"recipe": RECIPE, "live_recall_budget": 1.0, "check_timeout_s": 10.0}
"""As much as one search after another allows; replicas of a starved machine stay in."""
FOR_EVER_S = 1e9


def told(name: str, **labels: str) -> float:
    """A figure of the page of metrics; 0 before there is one."""
    return REGISTRY.get_sample_value(name, labels or {"index": "books"}) or 0.0


def sampled() -> float:
    return told("shoal_live_recall_sampled_total")


def shed(reason: str) -> float:
    return told("shoal_live_recall_shed_total", reason=reason)


def lose_hits(cluster: Cluster) -> None:
    """Approximate searches miss the best hit of each shard; exact ones miss nothing."""
    for replica in cluster.replicas:

        def mutate(reply, script=replica.script):
            if script.last.exact:
                return
            for name, dtype in (
                ("ordinals", "<i8"),
                ("segments", "<u4"),
                ("rows", "<u4"),
                ("scores", "<f4"),
            ):
                column = np.frombuffer(getattr(reply, name), dtype).reshape(reply.n_queries, -1)
                setattr(reply, name, column[:, 1:].tobytes())
            reply.width -= 1
            reply.ClearField("passages")

        replica.script.mutate = mutate


def count_exact(cluster: Cluster) -> list[int]:
    """Appends the shard's number at each exact search in the background from now on."""
    seen: list[int] = []
    for replica in cluster.replicas:

        def mutate(reply, replica=replica):
            asked = replica.script.last
            if asked.exact and asked.priority == priority_pb2.PRIORITY_BULK:
                seen.append(replica.shard)

        replica.script.mutate = mutate
    return seen


async def test_what_is_told_is_the_recall_of_what_was_served(tmp_path, rng):
    """Against the oracle, over questions of 1 to 20 hits with ties all over, vectors and text."""
    recalls = []
    async with running(tmp_path, **MEASURING) as cluster:
        lose_hits(cluster)
        before = sampled()
        for number in range(40):
            k = int(rng.integers(1, 21))
            vector = rng.integers(-4, 5, (1, cluster.corpus.dim)).astype(np.float32)
            request = vector_request(vector, k=k)
            if number % 4 == 0:
                request = text_request(f"question {number}", k=k)
                vector = vector_of(f"question {number}")[None]
            answer = await cluster.search(request)
            depth = min(k, 10)
            kth = cluster.corpus.search(vector[0], depth).scores[-1]
            scores = hits_of(answer.results[0]).scores[:depth]
            recalls.append(sum(score >= kth for score in scores) / depth)
            await eventually(lambda n=number: sampled() == before + n + 1)
        expected = estimate(np.array(recalls))
        assert 0.0 < expected.recall < 1.0
        assert told("shoal_live_recall") == pytest.approx(expected.recall)
        assert told("shoal_live_recall_low") == pytest.approx(expected.low)
        assert told("shoal_live_recall_high") == pytest.approx(expected.high)
        assert told("shoal_live_recall_window") == 40
    assert REGISTRY.get_sample_value("shoal_live_recall", {"index": "books"}) is None


async def test_off_asks_the_shards_nothing(tmp_path):
    """A budget of 0: each search is one call a shard, and no task waits for anything."""
    async with running(tmp_path, recipe=RECIPE) as cluster:
        before = len(asyncio.all_tasks())
        for _ in range(20):
            await cluster.search(vector_request(VECTOR))
        assert cluster.n_searches == 20 * len(cluster.shards)
        await eventually(lambda: len(asyncio.all_tasks()) <= before)
        assert REGISTRY.get_sample_value("shoal_live_recall", {"index": "books"}) is None


async def test_exact_searches_are_not_measured_and_told_as_exact(tmp_path):
    """A Flat index has no approximation to find out about: each search is one call a shard."""
    measuring = MEASURING | {"recipe": "Flat"}
    async with running(tmp_path, **measuring) as cluster:
        before = sampled(), told("shoal_live_recall_cpu_seconds_total")
        for _ in range(20):
            await cluster.search(vector_request(VECTOR))
        gauges = [told(f"shoal_live_recall{end}") for end in ("", "_low", "_high", "_window")]
        assert gauges == [1.0, 1.0, 1.0, 0.0]
        assert cluster.n_searches == 20 * len(cluster.shards)
        assert (sampled(), told("shoal_live_recall_cpu_seconds_total")) == before
    assert REGISTRY.get_sample_value("shoal_live_recall", {"index": "books"}) is None


async def test_only_the_best_of_everything_is_measured(tmp_path):
    """Exact, bulk, skipping, cut and partial answers say nothing of what users' searches find."""
    async with running(tmp_path, **MEASURING) as cluster:
        seen = count_exact(cluster)
        asked = vector_request(VECTOR)
        before = sampled()
        for parameters in (
            {"exact": True}, {"priority": priority_pb2.PRIORITY_BULK}, {"offset": 5},
            {"score_threshold": 0.0},
        ):  # fmt: skip
            await cluster.search(vector_request(VECTOR, **parameters))
        cluster.shards[1][0].script.raises = InternalError("bug")
        answer = await cluster.search(vector_request(VECTOR, min_coverage=0.1))
        assert answer.coverage < 1.0
        cluster.shards[1][0].script.raises = None
        await cluster.search(asked)
        await eventually(lambda: sampled() == before + 1)
        assert sorted(seen) == [0, 1]


@pytest.mark.parametrize(
    ("failure", "reason"),
    [
        (OverloadedError("full", retry_after_s=1.0), "overloaded"),
        (DeadlineExceededError("late"), "late"),
        (FailedPreconditionError("not open", reason="WRONG_VERSION"), "moved"),
        (InternalError("bug"), "failed"),
        (None, "failed"),
    ],
    ids=["overloaded", "late", "moved", "broken", "lying"],
)
async def test_a_shard_that_fails_is_shed_and_never_recall(tmp_path, failure, reason):
    """The other shard's hits alone would make a recall that nobody was served."""
    async with running(tmp_path, **MEASURING) as cluster:
        before = {"shed": shed(reason), "sampled": sampled()}

        def fail(reply):
            if cluster.shards[1][0].script.last.exact:
                if failure is not None:
                    raise failure
                reply.scores = np.full(reply.n_queries * reply.width, np.nan, "<f4").tobytes()

        cluster.shards[1][0].script.mutate = fail
        await cluster.search(vector_request(VECTOR))
        await eventually(lambda: shed(reason) == before["shed"] + 1)
        assert sampled() == before["sampled"]
        assert math.isnan(told("shoal_live_recall"))
        assert cluster.usable() == [[True], [True]]
        assert (await cluster.search(vector_request(VECTOR))).coverage == 1.0


def test_shards_that_fail_it_again_and_again_are_left_alone():
    """A refusal a second for ever would ring an alarm; reading all from disk costs everybody."""
    pauses = [pause_s("overloaded", n_failed=n) for n in range(12)]
    assert pauses[:4] == [1.0, 2.0, 4.0, 8.0]
    assert pauses[-1] == pause_s("late", n_failed=10_000) == 600.0
    assert [pause_s(reason, n_failed=9) for reason in ("busy", "moved")] == [1.0, 1.0]


async def test_shards_that_answer_again_are_measured_at_the_first_pause(tmp_path, monkeypatch):
    """The count is of failures in a row, and a measurement ends the row."""
    pauses = []

    def noted(reason, *, n_failed):
        pauses.append((reason, n_failed))
        return 0.0

    monkeypatch.setattr(live_recall, "pause_s", noted)
    async with running(tmp_path, **MEASURING) as cluster:
        script = cluster.shards[1][0].script

        def fail(_reply):
            if script.last.exact:
                raise OverloadedError("full", retry_after_s=1.0)

        for n_failures in (2, 1):
            script.mutate = fail
            for _ in range(n_failures):
                told_before = len(pauses)
                await cluster.search(vector_request(VECTOR))
                await eventually(lambda seen=told_before: len(pauses) > seen)
            script.mutate = None
            before = sampled()
            await cluster.search(vector_request(VECTOR))
            await eventually(lambda seen=before: sampled() > seen)
    overloads = [n_failed for reason, n_failed in pauses if reason == "overloaded"]
    assert overloads == [0, 1, 0]


async def test_what_it_logs_is_no_request_s(tmp_path, caplog):
    """It outlives the request that it began with, whose id would be on its lines for ever."""
    ids = []

    def note_id(_record):
        ids.append(current_request_id())
        return True

    caplog.set_level(logging.INFO, live_recall.logger.name)
    live_recall.logger.addFilter(note_id)
    try:
        async with running(tmp_path, **MEASURING) as cluster:

            def fail(_reply):
                if cluster.shards[1][0].script.last.exact:
                    raise InternalError("bug")

            cluster.shards[1][0].script.mutate = fail
            await cluster.search(vector_request(VECTOR))
            await eventually(lambda: ids)
    finally:
        live_recall.logger.removeFilter(note_id)
    assert set(ids) == {""}


async def test_it_gives_way_to_queries_that_wait_or_are_refused(tmp_path, monkeypatch):
    """Nothing is searched exactly while the router refuses or queues; afterwards it goes on."""
    monkeypatch.setattr(live_recall, "QUIET_S", FOR_EVER_S)
    monkeypatch.setattr(live_recall, "PAUSE_S", 0.02)
    async with running(tmp_path, **MEASURING, max_queries=8) as cluster:
        seen = count_exact(cluster)
        before = {"busy": shed("busy"), "sampled": sampled()}
        for replica in cluster.replicas:
            replica.script.gate.clear()
        # of eight kinds, so that they don't travel together: two are under way, the others wait
        waiting = [
            asyncio.ensure_future(cluster.search(vector_request(VECTOR, k=k))) for k in range(1, 9)
        ]
        await eventually(lambda: cluster.admission.n_queries == 8)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await cluster.search(vector_request(VECTOR))
        assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        cluster.shards[0][0].script.gate.set()
        cluster.shards[1][0].script.gate.set()
        await asyncio.gather(*waiting)  # nothing that waited for an answer lost it
        await eventually(lambda: shed("busy") > before["busy"])
        assert (seen, sampled()) == ([], before["sampled"])
        monkeypatch.setattr(live_recall, "QUIET_S", 0.0)
        await eventually(lambda: sampled() == before["sampled"] + 1)
        assert sorted(seen) == [0, 1]


async def test_it_begins_nothing_while_a_query_waits_in_a_lane(tmp_path, monkeypatch):
    """A queue is enough, without a refusal: what was kept of the last answer stays where it is."""
    monkeypatch.setattr(live_recall, "QUIET_S", FOR_EVER_S)
    monkeypatch.setattr(live_recall, "PAUSE_S", 0.02)
    async with running(tmp_path, **MEASURING) as cluster:
        seen = count_exact(cluster)
        before = {"sampled": sampled()}
        cluster.admission.note_refusal()  # holds the first back until the others wait
        await cluster.search(vector_request(VECTOR))
        for replica in cluster.replicas:
            replica.script.gate.clear()
        waiting = [
            asyncio.ensure_future(cluster.search(vector_request(VECTOR, k=k))) for k in range(1, 9)
        ]
        await eventually(lambda: cluster.registry.served.n_waiting == 6)  # behind two under way
        monkeypatch.setattr(live_recall, "QUIET_S", 0.0)  # from here on the queue alone holds it
        n_shed = shed("busy")
        await eventually(lambda: shed("busy") >= n_shed + 3)
        assert (seen, sampled()) == ([], before["sampled"])
        for replica in cluster.replicas:
            replica.script.gate.set()
        await asyncio.gather(*waiting)
        await eventually(lambda: sampled() > before["sampled"])


async def test_another_version_begins_anew(tmp_path):
    """Recalls of two versions never mix: the figure goes with the old one, at once."""
    async with running(tmp_path, **MEASURING) as cluster:
        lose_hits(cluster)
        before = sampled()
        for number in range(5):
            await cluster.search(vector_request(VECTOR))
            await eventually(lambda n=number: sampled() == before + n + 1)
        assert told("shoal_live_recall_window") == 5
        old = told("shoal_live_recall")
        assert old < 1.0
        await cluster.admin.ReloadIndex(admin_pb2.ReloadIndexRequest(index="books", version=2))
        assert math.isnan(told("shoal_live_recall"))
        assert told("shoal_live_recall_window") == 0
        for replica in cluster.replicas:
            replica.script.mutate = None
        await cluster.search(vector_request(VECTOR))
        await eventually(lambda: told("shoal_live_recall_window") == 1)
        assert told("shoal_live_recall") == 1.0


async def test_the_budget_holds_under_a_flood(tmp_path):
    """Whatever the machine: the share of the time that passed, and one search more."""
    budget = 0.05
    async with running(tmp_path, recipe=RECIPE, live_recall_budget=budget) as cluster:
        for replica in cluster.replicas:

            def slow(reply):
                reply.search_ms = 20.0

            replica.script.mutate = slow
        spent_s = told("shoal_live_recall_cpu_seconds_total")
        before, largest_s, begun_s = sampled(), 0.0, time.monotonic()
        last_s = spent_s
        while sampled() < before + 4:
            assert time.monotonic() < begun_s + 100.0
            await cluster.search(vector_request(VECTOR, k=5))
            now_s = told("shoal_live_recall_cpu_seconds_total")
            largest_s, last_s = max(largest_s, now_s - last_s), now_s
            elapsed_s = time.monotonic() - begun_s
            rate = budget * len(cluster.shards)
            assert now_s - spent_s <= rate * elapsed_s + largest_s + 1e-6
        assert last_s > spent_s


async def test_an_index_without_passages_has_no_recall(tmp_path):
    """Nothing was there to find: neither 0 nor 1 would be true."""
    async with running(tmp_path, **MEASURING, corpus=Corpus(n_passages=0)) as cluster:
        before = told("shoal_live_recall_cpu_seconds_total")
        answer = await cluster.search(vector_request(VECTOR))
        assert answer.results == [pb.QueryResult()]
        await eventually(lambda: told("shoal_live_recall_cpu_seconds_total") > before)
        assert math.isnan(told("shoal_live_recall"))
