"""The router's answers equal exact search, over real sockets, whatever the cluster's shape."""

import asyncio

import numpy as np
import pytest
from fakes.cluster import eventually, hits_of, running, text_request, vector_request
from fakes.corpus import Corpus, vector_of

from router import batching, lane
from shoal.v1 import search_pb2 as pb


def query_vectors(n: int, dim: int = 8) -> np.ndarray:
    return np.random.default_rng(11).integers(-4, 5, (n, dim)).astype(np.float32)


@pytest.mark.parametrize("n_shards", [1, 2, 4])
@pytest.mark.parametrize("fields", [None, [], ["title"], ["text", "metadata"]])
async def test_answers_are_those_of_exact_search(tmp_path, n_shards, fields):
    """Scores, ordinals, shards and text are the oracle's, inline (k=3) and fetched (k=20)."""
    async with running(tmp_path, n_shards=n_shards) as cluster:
        wanted = query_vectors(7)
        for k in (3, 20):
            request = vector_request(wanted, k=k)
            if fields is not None:
                request.fields.paths.extend(fields)
                request.fields.SetInParent()
            answer = await cluster.search(request)
            assert answer.coverage == 1.0
            assert [s.outcome for s in answer.shards] == [pb.OUTCOME_OK] * n_shards
            assert [s.n_live for s in answer.shards] == cluster.corpus.n_live_by_shard
            for vector, result in zip(wanted, answer.results, strict=True):
                assert hits_of(result) == cluster.corpus.search(vector, k)
                for hit in result.hits:
                    check_passage(cluster.corpus, hit, fields)


def check_passage(corpus: Corpus, hit: pb.Hit, fields: list[str] | None) -> None:
    wanted = {"title", "text", "metadata"} if fields is None else set(fields)
    i = hit.ordinal
    assert hit.passage.id == corpus.ids[i]
    assert hit.shard == corpus.shard_of[i]
    assert hit.accuracy == pb.ACCURACY_EXACT
    assert hit.passage.title == (corpus.titles[i] if "title" in wanted else "")
    assert hit.passage.text == (corpus.texts[i] if "text" in wanted else "")
    metadata = {name: value.int_value for name, value in hit.passage.metadata.items()}
    assert metadata == ({"page": i} if "metadata" in wanted else {})


async def test_texts_and_vectors_mix_in_one_call(tmp_path):
    """Result i belongs to query i, whether it came as text, float32, float16 or floats."""
    async with running(tmp_path) as cluster:
        request = text_request("long one", "two", k=5)
        vectors = query_vectors(3)
        request.queries.insert(1, pb.Query())
        request.queries[1].vector.CopyFrom(vector_request(vectors[:1]).queries[0].vector)
        half = request.queries.add().vector
        half.n_rows, half.dim, half.dtype = 1, 8, 2
        half.packed = vectors[1].astype("<f2").tobytes()
        floats = request.queries.add().vector
        floats.n_rows, floats.dim = 1, 8
        floats.floats.values.extend(vectors[2].tolist())
        answer = await cluster.search(request)
        expected = [vector_of("long one"), vectors[0], vector_of("two"), vectors[1], vectors[2]]
        for vector, result in zip(expected, answer.results, strict=True):
            assert hits_of(result) == cluster.corpus.search(vector, 5)
        cut = [result.query_truncated for result in answer.results]
        assert cut == [True, False, False, False, False]
        assert answer.encoder_fingerprint == cluster.encoders[0].fingerprint
        assert answer.request_id


async def test_pages_add_up_to_one_big_answer(tmp_path):
    """offset skips the best hits: pages of 7 laid end to end are the first 21."""
    async with running(tmp_path) as cluster:
        vectors = query_vectors(2)
        whole = await cluster.search(vector_request(vectors, k=21))
        pages = [
            await cluster.search(vector_request(vectors, k=7, offset=start)) for start in (0, 7, 14)
        ]
        for i, result in enumerate(whole.results):
            joined = [hit for page in pages for hit in page.results[i].hits]
            assert joined == list(result.hits)


async def test_threshold_leaves_out_what_scores_lower(tmp_path):
    """Every hit at or above the threshold is there, and none below; none at all is an answer."""
    async with running(tmp_path) as cluster:
        vector = query_vectors(1)
        best = cluster.corpus.search(vector[0], 50)
        threshold = best.scores[20]
        answer = await cluster.search(vector_request(vector, k=50, score_threshold=threshold))
        enough = [score for score in best.scores if score >= threshold]
        assert hits_of(answer.results[0]).scores == enough
        none = await cluster.search(vector_request(vector, k=5, score_threshold=1e6))
        assert not none.results[0].hits


async def test_k_above_the_live_count_returns_all_there_is(tmp_path):
    """The fillers never reach a caller."""
    async with running(tmp_path, corpus=Corpus(n_passages=30)) as cluster:
        vector = query_vectors(1)
        answer = await cluster.search(vector_request(vector, k=1_000))
        assert hits_of(answer.results[0]) == cluster.corpus.search(vector[0], 1_000)
        assert len(answer.results[0].hits) == 30


async def test_concurrent_clients_share_calls(tmp_path):
    """64 single-query clients cost far fewer shard and encoder calls than they send queries."""
    async with running(tmp_path) as cluster:
        encoder, scripts = cluster.encoders[0], [r.script for r in cluster.replicas]
        encoder.gate.clear()
        for script in scripts:
            script.gate.clear()
        texts = [f"question {n}" for n in range(64)]
        under_way = asyncio.gather(*(cluster.search(text_request(t, k=4)) for t in texts))
        await eventually(lambda: cluster.n_under_way == 64)
        encoder.gate.set()
        await eventually(lambda: cluster.n_under_way == 2 * 64)
        for script in scripts:
            script.gate.set()
        for text, answer in zip(texts, await under_way, strict=True):
            assert hits_of(answer.results[0]) == cluster.corpus.search(vector_of(text), 4)
        assert encoder.n_texts == 64
        assert encoder.n_calls <= 4
        assert cluster.n_searches <= 2 * 6
        assert max(script.most_under_way for script in scripts) <= 2
        assert cluster.n_under_way == 0


async def test_shared_calls_stay_within_a_shards_limits(tmp_path):
    """Calls of 700 queries that wait together don't travel as one of 2,100: a shard takes 1,024."""
    async with running(tmp_path) as cluster:
        for replica in cluster.replicas:
            replica.script.gate.clear()
        requests = [vector_request(query_vectors(700), k=2) for _ in range(5)]
        under_way = asyncio.gather(*(cluster.search(request) for request in requests))
        await eventually(lambda: cluster.n_under_way == 2 * 5 * 700)
        for replica in cluster.replicas:
            replica.script.gate.set()
        answers = await under_way
        assert all(answer.coverage == 1.0 for answer in answers)
        assert max(r.script.largest_batch for r in cluster.replicas) <= 1_024


async def test_many_long_texts_stay_within_a_message(tmp_path):
    """Texts of 64 KiB from 300 callers at once don't add up to a request that gRPC refuses."""
    async with running(tmp_path) as cluster:
        cluster.encoders[0].gate.clear()
        texts = ["ä" * 32_000 + str(i) for i in range(300)]
        under_way = asyncio.gather(*(cluster.search(text_request(t, k=1)) for t in texts))
        await eventually(lambda: cluster.n_under_way == 300)
        cluster.encoders[0].gate.set()
        assert len(await under_way) == 300
        assert cluster.encoders[0].largest_request_bytes < 16 << 20


async def test_a_lone_query_waits_for_nobody(tmp_path, monkeypatch):
    """With no other query about, none of the lanes on its way holds it for company."""
    held_s: list[float] = []

    def hold_s(*args, **known):
        held_s.append(batching.hold_s(*args, **known))
        return held_s[-1]

    monkeypatch.setattr(lane, "hold_s", hold_s)
    async with running(tmp_path) as cluster:
        for _ in range(10):
            await cluster.search(text_request("alone", k=80))
    assert len(held_s) >= 10 * 4, "one to the encoder, two to the shards, and for the text"
    assert set(held_s) == {0.0}


async def test_indexes_are_listed_and_described(tmp_path):
    """ListIndexes, GetIndex and GetTopology tell what the shards told."""
    async with running(tmp_path, n_replicas=2) as cluster:
        listed = await cluster.stub.ListIndexes(pb.ListIndexesRequest())
        described = await cluster.stub.GetIndex(pb.GetIndexRequest(index="books"))
        assert list(listed.indexes) == [described.index]
        index = described.index
        assert (index.name, index.version, index.n_live, index.n_shards) == ("books", 1, 300, 2)
        assert (index.coverage, index.dim, index.recipe) == (1.0, 8, "Flat")
        assert index.encoder_fingerprint == cluster.encoders[0].fingerprint


async def test_rescoring_is_shared_out(tmp_path):
    """Each shard rescores its likely share, not everything; the answer names what was asked."""
    async with running(
        tmp_path, n_shards=4, corpus=Corpus(40_000, 4), recipe="IVF64,PQ4"
    ) as cluster:
        answer = await cluster.search(vector_request(query_vectors(1), k=100, n_probe=32))
        assert (answer.candidates, answer.n_probe) == (1_000, 32)
        for replica in cluster.replicas:
            assert 250 < replica.script.last.candidates < 330
            assert replica.script.last.n_probe == 32
        off = await cluster.search(vector_request(query_vectors(1), k=100, oversample=0))
        assert (off.candidates, off.n_probe) == (0, 16)
        exact = await cluster.search(vector_request(query_vectors(1), k=100, exact=True))
        assert (exact.candidates, exact.n_probe) == (0, 0)
        assert cluster.replicas[0].script.last.exact
