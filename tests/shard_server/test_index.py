"""A shard's answers against brute force, and the claim that sharding never changes them."""

import dataclasses

import numpy as np
import pytest

from shard_server import index
from shard_server.devices import CpuBackend
from shard_server.hits import merge
from shard_server.limits import SearchParameters
from shard_server.search_thread import Stopped
from shard_server.segment_search import _MAX_ASKS, SegmentSearch
from shard_server.slices import slices_of

RECIPES = ("IVF32,PQ16", "IVF32,PQ16x4fs")


def bits(scores):
    return np.ascontiguousarray(scores).view(np.uint32)


def assert_same_hits(found, wanted):
    """Scores bit for bit; ordinals wherever scores differ, and here also where they are equal."""
    np.testing.assert_array_equal(bits(found.scores), bits(wanted.scores))
    np.testing.assert_array_equal(found.ordinals, wanted.ordinals)


@pytest.mark.parametrize("metric", ["inner_product", "l2"])
@pytest.mark.parametrize("recipe", ["Flat", "IVF32,PQ16x4fs"])
def test_exact_search_finds_what_brute_force_finds(
    tmp_path, corpus, write_index, open_shard, oracle, recipe, metric
):
    """`exact` is the oracle of everything else: its scores and its order are numpy's."""
    index = open_shard(tmp_path, write_index(tmp_path, recipe, metric=metric))
    hits = index.search(corpus.queries, SearchParameters(k=10, exact=True))
    scores, ordinals = oracle(corpus.vectors, corpus.queries, 10, metric)
    assert hits.exact
    np.testing.assert_allclose(hits.scores, scores, atol=1e-5)
    assert (hits.ordinals == ordinals).mean() > 0.999
    np.testing.assert_array_equal(hits.ordinals[0], ordinals[0])  # forty equal passages


@pytest.mark.parametrize("recipe", RECIPES)
def test_rescored_scores_are_the_exact_ones(tmp_path, corpus, write_index, open_shard, recipe):
    """A rescored hit's score is bit-equal to what brute force gives the same passage."""
    index = open_shard(tmp_path, write_index(tmp_path, recipe))
    everything = index.search(corpus.queries, SearchParameters(k=1000, exact=True))
    hits = index.search(corpus.queries, SearchParameters(k=10, n_probe=32, candidates=200))
    assert hits.exact
    recall = []
    for row in range(len(corpus.queries)):
        exact = dict(
            zip(everything.ordinals[row].tolist(), bits(everything.scores[row]), strict=True)
        )
        for ordinal, score in zip(hits.ordinals[row].tolist(), bits(hits.scores[row]), strict=True):
            assert exact.get(ordinal, score) == score
        recall.append(len(set(hits.ordinals[row]) & set(everything.ordinals[row, :10])) / 10)
    assert np.mean(recall) > 0.95


@pytest.mark.parametrize("n_shards", [2, 4, 8])
@pytest.mark.parametrize("recipe", RECIPES)
def test_sharding_never_changes_the_answer(
    tmp_path, corpus, write_index, open_shard, recipe, n_shards
):
    """Shards share one quantizer, so their merged top k is the single index's, tie for tie."""
    parameters = SearchParameters(k=10, n_probe=8)
    whole = open_shard(tmp_path / "one", write_index(tmp_path / "one", recipe))
    manifest = write_index(tmp_path / "many", recipe, n_shards=n_shards)
    parts = [
        open_shard(tmp_path / "many", manifest, shard).search(corpus.queries, parameters)
        for shard in range(n_shards)
    ]
    wanted = whole.search(corpus.queries, parameters)
    assert not wanted.exact
    assert_same_hits(merge(parts, 10), wanted)


@pytest.mark.parametrize("parameters", [
    SearchParameters(k=10, n_probe=8),
    SearchParameters(k=10, n_probe=32, candidates=6000),
    SearchParameters(k=10, exact=True),
])  # fmt: skip
def test_segments_never_change_the_answer(tmp_path, corpus, write_index, open_shard, parameters):
    """A shard in three segments answers as the same shard in one."""
    one = open_shard(tmp_path / "one", write_index(tmp_path / "one"))
    three = open_shard(tmp_path / "three", write_index(tmp_path / "three", n_segments=3))
    found = three.search(corpus.queries, parameters)
    assert_same_hits(found, one.search(corpus.queries, parameters))
    assert set(np.unique(found.segments)) == {0, 1, 2}


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("candidates", [0, 100])
def test_a_query_answers_alike_in_every_batch(
    tmp_path, corpus, write_index, open_shard, recipe, candidates
):
    """What travels with a query must not change its answer by a bit."""
    index = open_shard(tmp_path, write_index(tmp_path, recipe))
    parameters = SearchParameters(k=10, n_probe=8, candidates=candidates)
    together = index.search(corpus.queries, parameters)
    for start in (0, 7, 150):
        for size in (1, 3, 40):
            alone = index.search(corpus.queries[start : start + size], parameters)
            np.testing.assert_array_equal(
                bits(alone.scores), bits(together.scores[start : start + size])
            )
            np.testing.assert_array_equal(alone.ordinals, together.ordinals[start : start + size])


def test_ties_at_the_edge_go_to_the_oldest(tmp_path, corpus, write_index, open_shard):
    """Forty equal passages compete for ten places: the ten lowest ordinals win, every way."""
    index = open_shard(tmp_path, write_index(tmp_path))
    for parameters in (
        SearchParameters(k=10, exact=True),
        SearchParameters(k=10, n_probe=8),
        SearchParameters(k=10, n_probe=8, candidates=100),
    ):
        hits = index.search(corpus.queries[:1], parameters)
        np.testing.assert_array_equal(hits.ordinals[0], np.arange(100, 110))


@pytest.mark.parametrize("candidates", [0, 40])
def test_short_lists_are_filled_up(tmp_path, corpus, write_index, open_shard, candidates):
    """Where the probed lists hold fewer than k passages, the rest of the row is fillers."""
    index = open_shard(tmp_path, write_index(tmp_path, n_rows=60))
    hits = index.search(corpus.queries, SearchParameters(k=30, n_probe=1, candidates=candidates))
    assert hits.scores.shape == (200, 30)
    fillers = hits.ordinals < 0
    assert fillers.any()
    assert np.isneginf(hits.scores[fillers]).all()
    assert np.isfinite(hits.scores[~fillers]).all()
    assert (np.diff(fillers.astype(int), axis=1) >= 0).all()
    assert len(hits.places()[0]) == (~fillers).sum()


@pytest.mark.parametrize("parameters", [
    SearchParameters(k=1000, n_probe=32),
    SearchParameters(k=1000, n_probe=32, candidates=2048),
    SearchParameters(k=1000, exact=True),
])  # fmt: skip
def test_k_above_the_count_returns_all_there_is(
    tmp_path, corpus, write_index, open_shard, parameters
):
    """No passage is lost and none invented where k exceeds the shard."""
    index = open_shard(tmp_path, write_index(tmp_path, n_rows=60))
    hits = index.search(corpus.queries[:5], parameters)
    np.testing.assert_array_equal(np.sort(hits.ordinals, axis=1), np.tile(np.arange(60), (5, 1)))


def test_fewer_candidates_than_k_make_a_narrower_answer(tmp_path, corpus, write_index, open_shard):
    """A shard's share of the candidates may be below k; it answers with as many as it rescored."""
    index = open_shard(tmp_path, write_index(tmp_path))
    hits = index.search(corpus.queries, SearchParameters(k=10, n_probe=8, candidates=4))
    assert hits.scores.shape == (200, 4)


def test_an_empty_shard_answers_with_nothing(tmp_path, corpus, write_index, open_shard):
    """Few ids over many shards leave some shard empty; it serves, with no columns."""
    manifest = write_index(tmp_path, "Flat", n_rows=2, n_shards=8)
    empty = next(i for i, shard in enumerate(manifest.shards) if not shard.n_rows)
    index = open_shard(tmp_path, manifest, empty)
    index.warm_up()
    hits = index.search(corpus.queries, SearchParameters(k=10))
    assert hits.scores.shape == (200, 0)


def test_a_search_nobody_wants_ends_between_batches(tmp_path, corpus, write_index, open_shard):
    """Brute force over many queries looks up now and then, for faiss itself can't be stopped."""
    index = open_shard(tmp_path, write_index(tmp_path, "Flat"))
    with pytest.raises(Stopped):
        index.search(corpus.queries, SearchParameters(k=10, exact=True), lambda: False)


@pytest.mark.parametrize("metric", ["inner_product", "l2"])
@pytest.mark.parametrize("n_queries", [1, 70])
def test_steps_never_change_the_answer(
    tmp_path, corpus, write_index, open_shard, monkeypatch, metric, n_queries
):
    """Brute force slice by slice finds what it finds in one piece, ties and places included."""
    monkeypatch.setattr(index, "SLICE_ROWS", 700)
    manifest = write_index(tmp_path, n_segments=2, metric=metric)
    shard = open_shard(tmp_path, manifest)
    asked = []
    for k in (1, 10, 300, 1_000):
        parameters = SearchParameters(k=k, exact=True)
        queries = corpus.queries[:n_queries]

        def is_wanted():
            asked.append(True)
            return True

        whole = shard.search(queries, parameters)
        in_steps = shard.search(queries, parameters, is_wanted, in_steps=True)
        for name in ("ordinals", "segments", "rows"):
            assert (getattr(in_steps, name) == getattr(whole, name)).all(), name
        assert (bits(in_steps.scores) == bits(whole.scores)).all()
        assert in_steps.exact
    n_batches = -(-n_queries // 64)
    assert len(asked) == 4 * (n_batches * 10 - 1)  # two segments of 3,000 rows


def test_steps_leave_out_what_is_deleted(tmp_path, corpus, write_index, open_shard):
    """A slice whose rows are all superseded is not there, and others have their own bitmap."""
    manifest = write_index(tmp_path)
    shard = open_shard(tmp_path, manifest)
    deleted = np.zeros(6_000, dtype=np.bool_)
    deleted[:1_400] = deleted[2_000:5_000:2] = True
    whole = dataclasses.replace(
        shard._searches[0].data, deleted=deleted, n_live=int((~deleted).sum())
    )
    parameters = SearchParameters(k=50, exact=True)
    search = SegmentSearch(0, whole, None, "cpu", negate=False, has_lists=False)
    expected = search.search(corpus.queries, parameters)
    parts = slices_of(0, whole, 700, device="cpu", negate=False)
    assert [part.first_row for part in parts] == [1_400, 2_100, 2_800, 3_500, 4_200, 4_900, 5_600]
    found = merge([part.search(corpus.queries, parameters) for part in parts], 50)
    assert (found.ordinals == expected.ordinals).all()
    assert (found.rows == expected.rows).all()


def test_rows_and_segments_lead_to_the_passages(tmp_path, corpus, write_index, open_shard):
    """A hit's place is its passage's place: the id there is the ordinal's."""
    index = open_shard(tmp_path, write_index(tmp_path, n_segments=3))
    hits = index.search(corpus.queries, SearchParameters(k=10, n_probe=8))
    for segment, row, ordinal in zip(hits.segments[3], hits.rows[3], hits.ordinals[3], strict=True):
        column = index.passages[segment].take(np.array([row]), ["id"])["id"]
        assert column.data.decode() == f"p{ordinal}"


def test_more_settings_than_are_kept_answer_alike(tmp_path, corpus, write_index, open_shard):
    """What faiss needs is kept for some settings; forgetting and mixing them changes no answer."""
    index = open_shard(tmp_path, write_index(tmp_path))
    settings = [
        SearchParameters(k=k, n_probe=n_probe, candidates=candidates)
        for k in (1, 10)
        for n_probe in range(1, 21)
        for candidates in (0, 20, 50)
    ]
    assert len(settings) > _MAX_ASKS
    batch = corpus.queries[:8]
    first = [index.search(batch, parameters) for parameters in settings]
    fresh = open_shard(tmp_path, index.manifest)
    for parameters, wanted in zip(reversed(settings), reversed(first), strict=True):
        assert_same_hits(fresh.search(batch, parameters), wanted)


def test_vectors_of_another_dimension_never_reach_faiss(tmp_path, corpus, write_index, open_shard):
    """faiss takes a pointer: it would read beyond the end of narrower vectors."""
    index = open_shard(tmp_path, write_index(tmp_path))
    with pytest.raises(AssertionError):
        index.search(np.zeros((1, 63), dtype=np.float32), SearchParameters(k=1, n_probe=1))


class Aside(CpuBackend):
    """Loads on a thread of its own, as a GPU does."""

    loads_aside = True


@pytest.mark.parametrize(("backend", "wanted"), [(CpuBackend(), {1}), (Aside(), {1, 64})])
def test_only_what_loads_aside_is_warmed_with_many_queries(
    tmp_path, write_index, open_shard, monkeypatch, backend, wanted
):
    """On a CPU, 64 exhaustive scans of a large Flat shard would hold up the version that serves,
    and use up what the examining child is allowed."""
    index = open_shard(tmp_path, write_index(tmp_path, "Flat", n_rows=100), backend=backend)
    asked = set()
    search = index.search
    monkeypatch.setattr(index, "search", lambda q, p: (asked.add(len(q)), search(q, p)))
    index.warm_up()
    assert asked == wanted
