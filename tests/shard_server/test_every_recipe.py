"""Every recipe, built and served: the numpy oracle's answers, whatever holds the vectors."""

import functools

import faiss
import numpy as np
import pytest
from fakes.known_vectors import Rows

from shard_server.building import BuildOptions, Passage, build_index, inspect_index, verify_index
from shard_server.building.recipe import Recipe
from shard_server.hits import merge
from shard_server.limits import SearchParameters
from shard_server.rotation import Rotation, add_rows, take_apart

PLAIN = ["Flat", "SQ8", "PQ16", "PQ16x4fs", "IVF16,Flat", "IVF16,SQ8", "IVF16,PQ16",
         "IVF16,PQ16x4fs"]  # fmt: skip
TURNED = ["PCA48,SQ8", "PCA48,PQ16x4fs", "PCA48,IVF16,Flat", "PCA48,IVF16,SQ8", "PCA48,IVF16,PQ16",
          "OPQ16,PQ16x4fs", "OPQ16_48,PQ16x4fs", "OPQ16_48,IVF16,PQ16x4fs"]  # fmt: skip
METRICS = ["inner_product", "l2"]
N_ROWS = 2_000


def with_lengths(vectors):
    """The corpus without its normalization: lengths from 0.5 to 2, off centre, float16 values."""
    lengths = np.linspace(0.5, 2, len(vectors), dtype=np.float32)[:, None]
    return (vectors * lengths + np.float32(0.1)).astype(np.float16).astype(np.float32)


@pytest.fixture(scope="module")
def vectors(corpus):
    """Rows of unit length, and rows of many lengths."""
    unit = corpus.vectors[:N_ROWS]
    return {"unit": unit, "any": with_lengths(unit)}


@pytest.fixture(scope="module")
def build(tmp_path_factory, vectors):
    """Build (recipe, metric, lengths, shards) once."""

    @functools.cache
    def build_(recipe, metric, lengths="unit", n_shards=1):
        folder = tmp_path_factory.mktemp("index")
        passages = (
            Passage(id=f"p{i}", title="", text=str(i), where=f"made-up:{i}") for i in range(N_ROWS)
        )
        options = BuildOptions(name="tiny", recipe=recipe, metric=metric, n_shards=n_shards)
        return folder, build_index(folder, passages, Rows(vectors[lengths]), options)

    return build_


def bits(scores):
    return np.ascontiguousarray(scores).view(np.uint32)


def assert_found(index, rows, queries, oracle, metric):
    """Exact search is numpy's; rescored hits have exact scores and nearly all of the true ten."""
    wanted_scores, wanted = oracle(rows, queries, 10, metric)
    exact = index.search(queries, SearchParameters(k=10, exact=True))
    np.testing.assert_allclose(exact.scores, wanted_scores, atol=3e-5)
    assert (exact.ordinals == wanted).mean() > 0.99
    n_probe = index.manifest.n_lists
    rescored = index.search(queries, SearchParameters(k=10, n_probe=n_probe, candidates=300))
    assert rescored.exact
    everything = index.search(queries, SearchParameters(k=1000, exact=True))
    recall = []
    for row in range(len(queries)):
        scores = dict(
            zip(everything.ordinals[row].tolist(), bits(everything.scores[row]), strict=True)
        )
        found = zip(rescored.ordinals[row].tolist(), bits(rescored.scores[row]), strict=True)
        assert all(scores.get(ordinal, score) == score for ordinal, score in found)
        recall.append(len({*rescored.ordinals[row].tolist()} & {*wanted[row].tolist()}) / 10)
    assert np.mean(recall) > 0.97


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("recipe", PLAIN + TURNED)
def test_each_recipe_answers_as_the_oracle(
    corpus, build, vectors, open_shard, oracle, recipe, metric
):
    """With every list probed and 300 candidates rescored, each finds what brute force finds."""
    index = open_shard(*build(recipe, metric))
    index.warm_up()
    assert_found(index, vectors["unit"], corpus.queries[:60], oracle, metric)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("recipe", ["Flat", "SQ8", "PQ16x4fs", "PCA48,SQ8", "OPQ16,PQ16x4fs"])
def test_vectors_of_any_length_are_served(
    corpus, build, vectors, open_shard, oracle, recipe, metric
):
    """Nothing needs normalized vectors, and a mean far from zero spoils no inner product."""
    index = open_shard(*build(recipe, metric, "any"))
    assert_found(index, vectors["any"], with_lengths(corpus.queries[:60]), oracle, metric)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("recipe", PLAIN[1:] + TURNED)
def test_compressed_scores_need_no_rescoring_to_rank(corpus, build, open_shard, recipe, metric):
    """With rescoring off, hits are approximate, ordered, and their first is mostly the nearest."""
    index = open_shard(*build(recipe, metric))
    queries = corpus.queries[1:61]
    n_probe = index.manifest.n_lists
    hits = index.search(queries, SearchParameters(k=10, n_probe=n_probe))
    nearest = index.search(queries, SearchParameters(k=1, exact=True)).ordinals
    assert not hits.exact
    assert (np.diff(hits.scores, axis=1) <= 0).all()
    assert (hits.ordinals == nearest).any(axis=1).mean() > 0.75


@pytest.mark.parametrize("recipe", ["SQ8", "PQ16", "PQ16x4fs", *TURNED])
def test_sharding_never_changes_the_answer(corpus, build, open_shard, recipe):
    """Merged, four shards give the single index's scores bit for bit and its ids."""
    whole = open_shard(*build(recipe, "inner_product"))
    folder, manifest = build(recipe, "inner_product", "unit", 4)
    assert manifest.trained == whole.manifest.trained
    shards = [open_shard(folder, manifest, number) for number in range(4)]
    for candidates in (0, 2_048):
        parameters = SearchParameters(k=10, n_probe=manifest.n_lists, candidates=candidates)
        wanted = whole.search(corpus.queries, parameters)
        found = merge([shard.search(corpus.queries, parameters) for shard in shards], 10)
        np.testing.assert_array_equal(bits(found.scores), bits(wanted.scores))
        np.testing.assert_array_equal(found.ordinals, wanted.ordinals)


@pytest.mark.parametrize("recipe", PLAIN + TURNED)
def test_manifest_and_inspection_fit_the_recipe(build, recipe):
    """Lists, default n_probe and balance are there where the recipe has lists, and else absent."""
    folder, manifest = build(recipe, "inner_product")
    assert verify_index(folder).faults == ()
    has_lists = "IVF" in recipe
    assert (manifest.n_lists, manifest.default_n_probe) == ((16, 16) if has_lists else (0, 0))
    (shard,) = inspect_index(folder)["shards"]
    assert (shard["lists"] is not None) == has_lists
    assert (manifest.n_training_vectors == 0) == (recipe == "Flat")


def test_n_probe_means_nothing_without_lists(corpus, build, open_shard):
    """A caller that sends one anyway gets the answer, not faiss's refusal."""
    index = open_shard(*build("PQ16x4fs", "inner_product"))
    queries = corpus.queries[:5]
    with_it = index.search(queries, SearchParameters(k=10, n_probe=7, candidates=50))
    without = index.search(queries, SearchParameters(k=10, candidates=50))
    np.testing.assert_array_equal(with_it.ordinals, without.ordinals)


def test_codes_do_not_depend_on_the_batch(build, vectors):
    """A row added alone, in any place or among 2,000 has the same bytes, or shards would differ."""
    folder, manifest = build("PCA48,SQ8", "inner_product")
    trained = faiss.read_index(str(folder / manifest.trained.path))
    rows = vectors["unit"]
    together = codes(trained, [rows])
    order = np.random.default_rng(3).permutation(N_ROWS)
    np.testing.assert_array_equal(codes(trained, [rows[order]]), together[order])
    np.testing.assert_array_equal(codes(trained, np.array_split(rows, 301)), together)


def codes(trained, batches):
    index = faiss.clone_index(trained)
    for batch in batches:
        add_rows(index, batch)
    _, core = take_apart(index)
    assert index.ntotal == core.ntotal
    return faiss.vector_to_array(core.codes).reshape(core.ntotal, -1)


def test_rotation_is_faisss_own(build, vectors):
    """Our product and faiss's differ by rounding alone, with a bias and without."""
    for metric in METRICS:
        folder, manifest = build("PCA48,SQ8", metric)
        index = faiss.read_index(str(folder / manifest.trained.path))
        transform, _ = take_apart(index)
        assert transform.have_bias == (metric == "l2")
        rows = vectors["unit"]
        np.testing.assert_allclose(
            Rotation.of(transform).turn(rows), transform.apply(rows), atol=1e-5
        )


@pytest.mark.parametrize("recipe", PLAIN + TURNED)
def test_code_bytes_are_faisss(build, recipe):
    """The parser's bytes a vector are those of the index that faiss made."""
    folder, manifest = build(recipe, "l2")
    if manifest.trained is None:
        assert Recipe.parse(recipe, 64).code_bytes == 0
        return
    index = faiss.read_index(str(folder / manifest.trained.path))
    _, core = take_apart(index)
    assert Recipe.parse(recipe, 64).code_bytes == core.code_size
