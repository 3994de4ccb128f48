"""`POST /retrieve`, as the retrieval servers of RL and RAG stacks answer it."""

import asyncio

import numpy as np
import pytest
from fakes.cluster import eventually
from fakes.corpus import vector_of
from prometheus_client import REGISTRY

from router.http.retrieve import MAX_INTERACTIVE, asked_of, results_of, searches_of
from router.query import MAX_QUERIES
from shoal.bench.http_target import ids_of
from shoal.errors import InvalidArgumentError, OverloadedError
from shoal.v1 import priority_pb2
from shoal.v1 import search_pb2 as pb


def wanted(corpus, text: str, k: int):
    return corpus.search(vector_of(text), k)


async def test_an_answer_has_the_shape_that_clients_read(site):
    """Title in quotes on the first line of contents, then the text; the oracle's hits and order."""
    corpus = site.cluster.corpus
    asked = {"queries": ["one", "two"], "topk": 3, "return_scores": True}
    status, body = await site.post("/retrieve", json=asked)
    assert status == 200
    assert list(body) == ["result"]
    for text, hits in zip(asked["queries"], body["result"], strict=True):
        best = wanted(corpus, text, 3)
        assert [hit["score"] for hit in hits] == best.scores
        assert [hit["document"] for hit in hits] == [
            {"id": f"p{i}", "contents": f'"{corpus.titles[i]}"\n{corpus.texts[i]}'}
            for i in best.ordinals
        ]
    assert ids_of(body, 2) == tuple(
        tuple(f"p{i}" for i in wanted(corpus, text, 3).ordinals) for text in asked["queries"]
    )


async def test_without_scores_documents_stand_alone(site):
    """As Search-R1's server does; topk and return_scores may be left out, null or 0."""
    plain = {"queries": ["one"]}
    status, body = await site.post("/retrieve", json=plain)
    assert status == 200
    (documents,) = body["result"]
    assert [document["id"] for document in documents] == [
        f"p{i}" for i in wanted(site.cluster.corpus, "one", 3).ordinals
    ]
    assert all(set(document) == {"id", "contents"} for document in documents)
    ours = {"index": "books"}
    for more in ({"topk": None}, {"topk": 0, "return_scores": False}, {"unknown": 1}, ours):
        assert await site.post("/retrieve", json=plain | more) == (200, body)


async def test_a_long_list_is_answered_whole_and_in_order(site):
    """Training rollouts send thousands at once; one search takes 1,024."""
    queries = [f"question {i}" for i in range(MAX_QUERIES + 7)]
    status, body = await site.post(
        "/retrieve", json={"queries": queries, "topk": 1, "return_scores": True}
    )
    assert status == 200
    assert len(body["result"]) == len(queries)
    vectors = np.stack([vector_of(q) for q in queries])
    best = (vectors @ site.cluster.corpus.vectors.T).max(axis=1)
    assert [hits[0]["score"] for hits in body["result"]] == best.tolist()


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        ({}, "queries"),
        ({"queries": []}, "queries"),
        ({"queries": "one"}, "queries"),
        ({"queries": [1]}, "queries[0]"),
        ({"queries": ["fine", " "]}, "queries[1]"),
        ({"queries": ["fine", "\ud800"]}, "queries[1]"),
        ({"queries": ["a"], "topk": 1001}, "topk"),
        ({"queries": ["a"], "topk": -1}, "topk"),
        ({"queries": ["a"], "topk": True}, "topk"),
        ({"queries": ["a"], "topk": 1.5}, "topk"),
        ({"queries": ["a"], "return_scores": 1}, "return_scores"),
        ({"queries": ["a"] * 70, "topk": 1000}, "queries"),
    ],
)
def test_bad_requests_are_refused_by_field_before_any_work(asked, field):
    """A list of thousands must not be refused when half of it has been searched."""
    with pytest.raises(InvalidArgumentError) as refused:
        asked_of(asked)
    assert refused.value.field == field


@pytest.mark.parametrize("k", [1, 3, 29, 100, 1000])
def test_no_search_is_larger_than_one_may_be(k):
    """The split keeps the order, and every part passes the router's own check of its size."""
    n = min(3000, 65_536 // k)
    asked = asked_of({"queries": [str(i) for i in range(n)], "topk": k})
    searches = list(searches_of(asked))
    assert [q.text for s in searches for q in s.queries] == list(asked.queries)
    for search in searches:
        assert len(search.queries) <= MAX_QUERIES
        assert len(search.queries) * k * (64 + 64 + 1024) <= 32 << 20
        assert search.priority == (
            priority_pb2.PRIORITY_BULK if n > MAX_INTERACTIVE else priority_pb2.PRIORITY_INTERACTIVE
        )


def test_texts_that_begin_with_their_titles_stay_as_they_are():
    """Search-R1's own corpora are read with `contents` as the text: the same comes back."""
    contents = '"Iliad"\nThe Iliad is an epic poem.'
    response = pb.SearchResponse()
    passage = response.results.add().hits.add().passage
    passage.id, passage.text = "7", contents
    assert results_of(response, with_scores=False) == (
        b'[{"id":"7","contents":"\\"Iliad\\"\\nThe Iliad is an epic poem."}]'
    )
    passage.title, passage.text = "Two\nlines", "text"
    assert b'"\\"Two lines\\"\\ntext"' in results_of(response, with_scores=False)


async def test_failures_have_their_own_status_and_one_line(site):
    """What gRPC says by a code, HTTP says by the status of the same meaning, and when to retry."""
    asked = {"json": {"queries": ["a"]}}
    shards = site.cluster.replicas
    for shard in shards:
        shard.script.raises = OverloadedError("full", retry_after_s=2.5)
    async with site.client.post(site.url + "/retrieve", **asked) as answer:
        assert answer.status == 429
        assert answer.headers["Retry-After"] == "3"
        error = (await answer.json())["error"]
        assert error["code"] == "RESOURCE_EXHAUSTED"
        assert error["request_id"] == answer.headers["x-request-id"]
        assert (await answer.read()).count(b"\n") == 1
    for shard in shards:
        shard.script.raises = None
        shard.script.gate.clear()
    status, body = await site.post("/retrieve", headers={"X-Timeout-Ms": "200"}, **asked)
    assert (status, body["error"]["code"]) == (504, "DEADLINE_EXCEEDED")
    for shard in shards:
        shard.script.gate.set()
        await shard.stop()
    status, body = await site.post("/retrieve", **asked)
    assert (status, body["error"]["code"]) == (503, "UNAVAILABLE")


def counted(code: str) -> tuple[float, float]:
    """Calls of `/retrieve` that ended so, and how many of all were timed."""
    labels = {"rpc": "Retrieve", "code": code}
    timed = REGISTRY.get_sample_value("shoal_request_duration_seconds_count", {"rpc": "Retrieve"})
    return REGISTRY.get_sample_value("shoal_requests_total", labels) or 0, timed or 0


async def test_refusals_are_counted_and_not_timed(site):
    """As over gRPC: they take no time, and a server that refuses all would look fast; a fault of
    ours is 0 and not absent before the first, which an alarm would sleep through.
    """
    assert (
        REGISTRY.get_sample_value("shoal_requests_total", {"rpc": "Retrieve", "code": "INTERNAL"})
        is not None
    )
    n_refused, n_timed = counted("INVALID_ARGUMENT")
    assert (await site.post("/retrieve", json={"queries": []}))[0] == 400
    assert counted("INVALID_ARGUMENT") == (n_refused + 1, n_timed)
    n_answered, _ = counted("OK")
    assert (await site.post("/retrieve", json={"queries": ["a"]}))[0] == 200
    assert counted("OK") == (n_answered + 1, n_timed + 1)


async def test_a_caller_that_leaves_takes_its_search_along(site):
    """Nothing goes on for nobody: shards see the cancellation; and it counts, with its time, or a
    router that hangs until its callers leave would have failed nobody.
    """
    n_left, n_timed = counted("CANCELLED")
    shards = site.cluster.replicas
    for shard in shards:
        shard.script.gate.clear()
    asking = asyncio.ensure_future(site.post("/retrieve", json={"queries": ["a"]}))
    await eventually(lambda: all(shard.script.n_under_way for shard in shards))
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    await eventually(lambda: all(shard.script.n_cancelled for shard in shards))
    await eventually(lambda: site.cluster.admission.n_queries == 0)
    await eventually(lambda: counted("CANCELLED") == (n_left + 1, n_timed + 1))
