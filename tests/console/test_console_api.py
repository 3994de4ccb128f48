"""What the console's page asks: a search, the topology, the calibration, the slow searches."""

import pytest
from fakes.cluster import eventually
from fakes.corpus import vector_of

from router.http.overview import calibration
from router.topology import IndexVersion, OperatingPoint


async def test_a_question_is_answered_with_where_it_came_from(site):
    """The oracle's passages, each with its shard; stages that follow each other; the coverage."""
    corpus = site.cluster.corpus
    status, answer = await site.post("/api/search", json={"question": "one", "k": 5})
    assert status == 200
    best = corpus.search(vector_of("one"), 5)
    assert [hit["ordinal"] for hit in answer["hits"]] == best.ordinals
    for hit in answer["hits"]:
        ordinal = hit["ordinal"]
        assert hit["shard"] == corpus.shard_of[ordinal]
        assert (hit["title"], hit["text"]) == (corpus.titles[ordinal], corpus.texts[ordinal])
        assert hit["metadata"] == {"page": ordinal}
        assert hit["is_exact"]
    assert answer["coverage"] == 1.0
    assert [told["outcome"] for told in answer["shards"]] == ["OK", "OK"]
    assert 0 < sum(answer["stages_ms"].values()) <= answer["total_ms"] + 0.01


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        ({}, "question"),
        ({"question": 1}, "question"),
        ({"question": ""}, "queries[0].text"),
        ({"question": "a", "k": "10"}, "k"),
        ({"question": "a", "k": 1 << 40}, "k"),
        ({"question": "a", "k": 0}, "k"),
        ({"question": "a", "exact": "yes"}, "exact"),
        ({"question": "a", "n_probe": 0}, "n_probe"),
        ({"question": "a", "min_coverage": 2}, "min_coverage"),
        ({"question": "a", "min_coverage": 1e300}, "min_coverage"),
        ({"question": "a", "nprobe": 3}, "nprobe"),
    ],
)
async def test_a_wrong_question_is_refused_by_field(site, asked, field):
    """By the router's own checks; a field that nobody knows is not passed over."""
    status, body = await site.post("/api/search", json=asked)
    assert status == 400
    assert body["error"]["field"] == field


async def test_an_unknown_index_is_not_found(site):
    """With the name, as gRPC says it."""
    status, body = await site.post("/api/search", json={"question": "a", "index": "other"})
    assert (status, body["error"]["code"]) == (404, "NOT_FOUND")
    assert (await site.get("/api/calibration?index=other"))[0] == 404


async def test_a_dead_shard_is_seen_and_partial_answers_say_so(site):
    """Its replica's state, the coverage left, /health, and an answer that names what is missing."""
    corpus, (first, _) = site.cluster.corpus, site.cluster.replicas
    _, before = await site.get("/api/topology")
    (index,) = before["indexes"]
    assert [shard["is_there"] for shard in index["shards"]] == [True, True]
    assert [shard["n_live"] for shard in index["shards"]] == corpus.n_live_by_shard
    assert before["encoders"][0]["state"] == "healthy"
    assert (await site.get("/health"))[0] == 200
    await first.stop()
    served = site.cluster.registry
    await eventually(lambda: served.served.indexes["books"].coverage() < 1.0)
    _, after = await site.get("/api/topology")
    (index,) = after["indexes"]
    assert index["coverage"] == pytest.approx(corpus.coverage(1))
    assert [shard["is_there"] for shard in index["shards"]] == [False, True]
    assert index["shards"][0]["replicas"][0]["state"] == "down"
    assert (await site.get("/health"))[0] == 503
    asked = {"question": "one", "min_coverage": 0}
    _, answer = await site.post("/api/search", json=asked)
    assert answer["coverage"] == pytest.approx(corpus.coverage(1))
    assert [told["outcome"] for told in answer["shards"]] == ["DOWN", "OK"]


async def test_load_counts_what_was_searched(site):
    """A page takes its rate from two of them."""
    _, before = await site.get("/api/topology")
    await site.post("/retrieve", json={"queries": ["a", "b", "c"]})
    _, after = await site.get("/api/topology")
    assert after["load"]["n_queries"] - before["load"]["n_queries"] == 3
    assert after["at_s"] > before["at_s"]
    assert after["load"]["in_flight"] == 0


async def test_searches_of_every_door_are_among_the_slow_ones(site):
    """With what was asked, where no tokens are: the page is on loopback alone."""
    await site.post("/retrieve", json={"queries": ["what is slow", "b"], "topk": 2})
    _, told = await site.get("/api/slow")
    assert told["shows_questions"]
    (query,) = told["queries"]
    assert (query["question"], query["n_queries"], query["k"]) == ("what is slow", 2, 2)
    assert set(query["stages_ms"]) == {"queue", "encode", "search", "merge", "fetch"}


def test_calibration_tells_every_measured_point():
    """As the manifest has them: by k, and cheapest first."""
    points = tuple(
        OperatingPoint(n_probe=n, oversample=10.0, recall=n / 10, k=10) for n in (1, 4, 9)
    )
    known = IndexVersion(
        name="books", version=3, dim=8, recipe="IVF16,PQ4x4fs", score_kind=1, n_lists=16,
        default_n_probe=4, default_oversample=10.0, n_live_by_shard=(5,), question_fingerprint="",
        encoder_model="", operating_points=points, created_at_ns=0,
    )  # fmt: skip
    told = calibration(known)
    assert [(p["n_probe"], p["recall"]) for p in told["points"]] == [(1, 0.1), (4, 0.4), (9, 0.9)]
    assert (told["default_n_probe"], told["n_lists"]) == (4, 16)
