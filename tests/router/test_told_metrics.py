"""What a router tells of its replicas and answers on its Prometheus page."""

import numpy as np
from fakes.asking import VECTOR, refusal, request
from fakes.cluster import eventually, running, vector_request
from fakes.corpus import Corpus
from prometheus_client import REGISTRY

from router.door import Door
from router.standing import State
from router.standing_gauges import StandingGauges, count_states
from shoal.errors import OverloadedError
from shoal.rpc.deadline import TIMEOUT_KEY
from shoal.v1 import search_pb2 as pb


def told(metric, **labels):
    return REGISTRY.get_sample_value(metric, labels) or 0


def values(gauges):
    """What a collector tells now: by name and labels' values."""
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in gauges.collect()
        for sample in family.samples
    }


async def test_replicas_are_told_by_where_they_stand(tmp_path):
    """An alarm must see a replica that is out, and a shard without any, though nobody asks."""
    async with running(tmp_path, n_replicas=2) as cluster:
        gauges = StandingGauges(lambda: cluster.registry.served)
        now = values(gauges)
        assert now["shoal_shards", "books"] == now["shoal_shards_live", "books"] == 2
        assert now["shoal_shard_replicas", "books", "1", "healthy"] == 2
        assert now["shoal_shard_replicas", "books", "1", "ejected"] == 0
        assert now["shoal_encoder_replicas", "healthy"] == 1
        await cluster.shards[1][0].stop()
        await eventually(
            lambda: values(gauges)["shoal_shard_replicas", "books", "1", "ejected"] == 1
        )
        assert values(gauges)["shoal_shard_replicas", "books", "1", "healthy"] == 1
        assert values(gauges)["shoal_shards_live", "books"] == 2
        await cluster.shards[1][1].stop()
        await eventually(lambda: values(gauges)["shoal_shards_live", "books"] == 1)
        assert values(gauges)["shoal_shards", "books"] == 2


def test_states_without_replicas_are_0():
    """A series that is absent fires no alarm, and sums over it are of nothing."""
    assert count_states([]) == dict.fromkeys(State, 0)
    assert count_states([State.TRIAL, State.TRIAL])[State.TRIAL] == 2


async def test_answers_are_told_by_their_coverage(tmp_path):
    """And for a partial one how much it searched, and which shard it lacks and why."""
    corpus = Corpus(n_shards=2)
    async with running(tmp_path, corpus=corpus) as cluster:
        names = {
            "full": ("shoal_answers_total", {"coverage": "full"}),
            "partial": ("shoal_answers_total", {"coverage": "partial"}),
            "share": ("shoal_partial_answer_coverage_ratio_sum", {}),
            "lost": ("shoal_shard_losses_total", {"shard": "1", "outcome": "DOWN"}),
        }

        def counted():
            return {name: told(metric, **labels) for name, (metric, labels) in names.items()}

        before = counted()
        await cluster.search(request())
        assert counted() == {**before, "full": before["full"] + 1}
        await cluster.shards[1][0].stop()
        answer = await cluster.search(request(min_coverage=0.1))
        now = counted()
        assert now["partial"] == before["partial"] + 1
        assert now["lost"] == before["lost"] + 1
        assert abs(now["share"] - before["share"] - answer.coverage) < 1e-6


async def test_items_of_a_stream_are_counted_each(tmp_path):
    """A stream may last for hours: its end alone says nothing of what it carried."""
    async with running(tmp_path) as cluster:
        before = {code: told("shoal_stream_items_total", code=code)
                  for code in ("OK", "INVALID_ARGUMENT")}  # fmt: skip
        n_timed = told("shoal_request_duration_seconds_count", rpc="StreamSearch")
        items = [
            pb.StreamSearchRequest(item_id="good", request=request()),
            pb.StreamSearchRequest(item_id="bad", request=request(k=100_000)),
        ]
        assert len([answer async for answer in cluster.stub.StreamSearch(iter(items))]) == 2
        assert {code: told("shoal_stream_items_total", code=code) for code in before} == {
            code: n + 1 for code, n in before.items()
        }
        assert told("shoal_request_duration_seconds_count", rpc="StreamSearch") == n_timed + 1


async def test_items_that_go_with_their_stream_are_counted_too(tmp_path):
    """Or a router that hangs until its callers leave would have failed nobody."""
    names = {
        "left": ("shoal_stream_items_total", {"code": "CANCELLED"}),
        "timed": ("shoal_request_duration_seconds_count", {"rpc": "StreamSearch"}),
    }

    def counted():
        return {name: told(metric, **labels) for name, (metric, labels) in names.items()}

    async with running(tmp_path) as cluster:
        before = counted()
        for replica in cluster.replicas:
            replica.script.gate.clear()
        call = cluster.stub.StreamSearch()
        for item_id in ("a", "b", "c"):
            await call.write(pb.StreamSearchRequest(item_id=item_id, request=request()))
        await eventually(lambda: cluster.admission.n_queries == 3)
        call.cancel()
        await eventually(lambda: counted() == {name: n + 3 for name, n in before.items()})


async def test_waits_before_the_door_are_told_and_refusals_there_count(tmp_path, monkeypatch):
    """The first sign that a router has too much to do; its refusals are refusals like others."""

    def refuse(self, wait, now_s):
        raise OverloadedError("too long", retry_after_s=0.1)

    async with running(tmp_path) as cluster:
        n_waits = told("shoal_stage_duration_seconds_count", stage="door")
        interactive = {"component": "router", "priority": "interactive"}
        n_refused = told("shoal_refused_total", **interactive)
        metadata = ((TIMEOUT_KEY, "20000"),)
        await cluster.stub.Search(request(), timeout=20, metadata=metadata)
        assert told("shoal_stage_duration_seconds_count", stage="door") == n_waits + 1
        monkeypatch.setattr(Door, "check", refuse)
        two = vector_request(np.vstack([VECTOR, VECTOR]), k=1)
        await refusal(cluster.stub.Search(two, timeout=20, metadata=metadata))
        assert told("shoal_refused_total", **interactive) == n_refused + 2
