"""What the router tells of a search in a trace: real router and sockets, scripted processes."""

import asyncio
import itertools
from collections import Counter

import grpc
import numpy as np
import pytest
from fakes.cluster import eventually, never_late, running, text_request, vector_request

from shoal.errors import OverloadedError, UnavailableError
from shoal.tracing.context import context_of
from shoal.tracing.tracer import Tracer
from shoal.v1 import search_pb2 as pb

PARENT = (("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),)


class Seen:
    """The spans that a tracer sent, in batches."""

    def __init__(self) -> None:
        self.spans = []
        self.tracer = Tracer(self.spans.extend)

    def named(self, name):
        return [span for span in self.spans if span.name == name]

    def one(self, name):
        (span,) = self.named(name)
        return span


def check_whole(spans):
    """Every span has ended, lies within its parent, and its parent is among them or remote."""
    by_id = {span.span_id: span for span in spans}
    assert len(by_id) == len(spans)
    for span in spans:
        assert span.end_s is not None
        assert span.end_s >= span.start_s
        if span.parent_is_remote:
            continue
        parent = by_id[span.parent_id]
        # a call that is cancelled or shared may outlast whoever asked; none begins before
        assert span.start_s >= parent.start_s - 1e-4, (span.name, parent.name)


async def test_a_search_leaves_its_stages_and_calls(tmp_path):
    """Queue, encode, fan-out, merge and fetch follow each other, with the calls where they were."""
    seen = Seen()
    async with running(tmp_path, tracer=seen.tracer, inline_hits=0) as cluster:
        answer = await cluster.stub.Search(text_request("who?", k=3), metadata=PARENT, timeout=20)
    check_whole(seen.spans)
    root = seen.one("shoal.v1.SearchService/Search")
    assert (root.parent_is_remote, root.error) == (True, "")
    assert root.attributes["shoal.request_id"] == answer.request_id
    assert root.attributes["shoal.n_queries"] == 1
    stages = [seen.one(name) for name in ("queue", "encode", "fan-out", "merge", "fetch")]
    assert all(stage.parent_id == root.span_id for stage in stages)
    assert all(a.end_s <= b.start_s + 1e-6 for a, b in itertools.pairwise(stages))
    took_ms = {s.name: 1e3 * (s.end_s - s.start_s) for s in stages}
    assert took_ms["fan-out"] == pytest.approx(answer.timings.search_ms)
    assert took_ms["encode"] == pytest.approx(answer.timings.encode_ms)
    asked = seen.named("ask shard")
    parents = Counter(span.parent_id for span in asked)
    assert parents[seen.one("fan-out").span_id] == 2
    assert parents[seen.one("fetch").span_id] == len({h.shard for h in answer.results[0].hits})
    assert {span.attributes["server.port"] for span in asked} <= {
        int(shard.address.rpartition(":")[2]) for shard in cluster.replicas
    }
    assert seen.one("ask encoder").parent_id == seen.one("encode").span_id


async def test_nothing_of_a_question_is_in_a_trace(tmp_path):
    """Traces go to other systems than the texts may."""
    seen = Seen()
    async with running(tmp_path, tracer=seen.tracer) as cluster:
        await cluster.stub.Search(text_request("xyzzy?"), metadata=PARENT, timeout=20)
    assert len(seen.spans) > 5
    for span in seen.spans:
        assert "xyzzy" not in f"{span.name} {span.attributes} {span.error}"


async def test_a_search_that_is_not_sampled_sends_and_tells_nothing(tmp_path):
    """The caller's decision goes for every process behind: their metadata name no trace."""
    seen = Seen()
    told = []
    async with running(tmp_path, tracer=seen.tracer) as cluster:
        encode = cluster.encoders[0].Encode

        async def told_metadata(request, context):
            told.append(context_of(context.invocation_metadata()))
            return await encode(request, context)

        cluster.encoders[0].Encode = told_metadata
        unsampled = (("traceparent", PARENT[0][1][:-1] + "0"),)
        for metadata in (unsampled, ()):
            await cluster.stub.Search(text_request("q"), metadata=metadata, timeout=20)
    assert seen.spans == []
    assert told in ([], [None, None])


async def test_queries_that_ride_together_share_a_span_linked_to_each(tmp_path):
    """One call for three traced searches: it is in the first's trace, and all lead there."""
    seen = Seen()
    async with running(tmp_path, n_shards=1, tracer=seen.tracer) as cluster:
        encoder = cluster.encoders[0]
        encoder.gate.clear()
        # two calls may be under way: they hold up those that come after
        ahead = [asyncio.create_task(cluster.search(text_request(f"ahead {n}"))) for n in range(2)]
        await eventually(lambda: encoder.n_calls == 2 or cluster.n_under_way == 2)
        riders = [
            cluster.stub.Search(
                text_request(f"q{n}"),
                metadata=(("traceparent", f"00-{n + 1:032x}-{n + 1:016x}-01"),),
                timeout=20,
            )
            for n in range(3)
        ]
        await eventually(lambda: cluster.n_under_way == 5)
        encoder.gate.set()
        await asyncio.gather(*ahead, *riders)
    asked = {span.context[:2]: span for span in seen.named("ask encoder")}
    shared = seen.named("shoal.v1.EncoderService/Encode")
    links = Counter(link[:2] for span in shared for link in span.links)
    assert links == Counter(asked.keys()), "every rider is linked from the one call it rode in"
    together = max(shared, key=lambda span: len(span.links))
    assert len(together.links) > 1
    for trace_id, span_id in (link[:2] for link in together.links):
        rider = asked[trace_id, span_id]
        if rider.span_id == together.parent_id:
            assert rider.trace is together.trace
        else:
            assert together.context in rider.links
    assert together.attributes["shoal.batch_size"] == len(together.links)


async def test_a_retry_is_told_with_what_failed_before_it(tmp_path, monkeypatch):
    """A slow search is explained by the replica that failed, beside the one that answered."""
    never_late(monkeypatch)
    seen = Seen()
    async with running(tmp_path, n_shards=1, n_replicas=2, tracer=seen.tracer) as cluster:
        for _ in range(20):  # which replica is asked first is drawn
            cluster.shards[0][0].script.raises = OverloadedError("full", retry_after_s=0.1)
            request = vector_request(np.eye(1, cluster.corpus.dim, dtype=np.float32), k=1)
            await cluster.stub.Search(request, metadata=PARENT, timeout=20)
            if retries := [s for s in seen.spans if s.attributes.get("shoal.attempt") == "retry"]:
                break
            seen.spans.clear()
        assert retries, "the failing replica was never asked"
    retry = retries[0]
    (first,) = [s for s in seen.named("ask shard") if s.attributes["shoal.attempt"] == "first"]
    assert first.error == "RESOURCE_EXHAUSTED"
    assert retry.error == ""
    assert first.attributes["server.port"] != retry.attributes["server.port"]
    check_whole(seen.spans)


async def test_a_search_that_fails_shows_how_far_it_came(tmp_path):
    """Nobody can answer: the root has the status, and the calls say who failed how."""
    seen = Seen()
    async with running(tmp_path, n_shards=2, tracer=seen.tracer) as cluster:
        cluster.shards[1][0].script.raises = UnavailableError("gone")
        request = vector_request(np.eye(1, cluster.corpus.dim, dtype=np.float32), k=1)
        with pytest.raises(grpc.aio.AioRpcError):
            await cluster.stub.Search(request, metadata=PARENT, timeout=20)
    check_whole(seen.spans)
    root = seen.one("shoal.v1.SearchService/Search")
    assert root.error == root.attributes["rpc.response.status_code"] == "UNAVAILABLE"
    failed = [s for s in seen.named("ask shard") if s.attributes["shoal.shard"] == 1]
    assert {span.error for span in failed} == {"UNAVAILABLE"}


async def test_each_item_of_a_stream_is_traced(tmp_path):
    """A stream may live for days: its items are the requests, each with its own status."""
    seen = Seen()
    async with running(tmp_path, tracer=seen.tracer) as cluster:
        good = vector_request(np.eye(1, cluster.corpus.dim, dtype=np.float32), k=1)
        items = [
            pb.StreamSearchRequest(item_id="good", request=good),
            pb.StreamSearchRequest(item_id="bad", request=pb.SearchRequest()),
        ]
        answers = [a async for a in cluster.stub.StreamSearch(iter(items), metadata=PARENT)]
    assert {answer.item_id for answer in answers} == {"good", "bad"}
    roots = seen.named("shoal.v1.SearchService/StreamSearch")
    codes = Counter(root.attributes["rpc.response.status_code"] for root in roots)
    assert codes == {"OK": 1, "INVALID_ARGUMENT": 1}
    assert not any(root.error for root in roots), "a caller's fault is no server's error"
    check_whole(seen.spans)
