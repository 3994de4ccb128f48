"""The plan's bytes are those of built files, and what it says fits does."""

import functools

import faiss
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shard_server.building.cost import cost_of, gpu_bytes
from shard_server.building.plan import Wish, make_plans, n_probe_for
from shard_server.building.progress import silent
from shard_server.building.recipe import Recipe, choose_recipe
from shard_server.building.train import train_index
from shard_server.rotation import add_rows
from shoal.errors import ConfigError

RECIPES = ["SQ8", "PQ16", "PQ16x4fs", "IVF32,Flat", "IVF32,SQ8", "IVF32,PQ16", "IVF32,PQ16x4fs",
           "IVF32,PQ8x4fs", "PCA32,SQ8", "PCA32,IVF32,PQ16x4fs",
           "OPQ8_32,IVF32,PQ8x4fs"]  # fmt: skip


@pytest.fixture(autouse=True)
def no_limit():
    """faiss's limit is the process's: another test may have set it for a smaller index."""
    before = faiss.get_deserialization_vector_byte_limit()
    faiss.set_deserialization_vector_byte_limit(1 << 40)
    yield
    faiss.set_deserialization_vector_byte_limit(before)


def rows_of(n_rows):
    """The same ones first, however many."""
    return np.random.default_rng(2).standard_normal((n_rows, 64), dtype=np.float32)


@functools.cache
def trained(recipe):
    """The recipe's empty index, as faiss writes it."""
    index = train_index(
        Recipe.parse(recipe, 64), rows_of(2_000), metric="l2", seed=0, progress=silent
    )
    return faiss.serialize_index(index)


@pytest.mark.parametrize("n_rows", [3_000, 40_000])
@pytest.mark.parametrize("recipe", RECIPES)
def test_an_index_files_bytes_are_foretold(recipe, n_rows):
    """Within 2 % of what faiss writes, for few rows and for many; trained.faiss within 1 KiB."""
    parsed = Recipe.parse(recipe, 64)
    cost = cost_of(parsed, n_rows=n_rows, dim=64, metric="l2", passage_bytes=0)
    assert abs(trained(recipe).size - cost.trained) < 1_024
    index = faiss.deserialize_index(trained(recipe))
    add_rows(index, rows_of(n_rows))
    content = faiss.serialize_index(index)
    assert cost.index == pytest.approx(content.size, rel=0.02)
    read = faiss.deserialize_index(content)
    ivf = faiss.try_extract_index_ivf(read)
    tables = faiss.downcast_index(ivf) if ivf is not None else None
    if isinstance(tables, faiss.IndexIVFPQ):
        assert tables.precomputed_table.size() * 4 == cost.tables
    else:
        assert cost.tables == 0


@pytest.mark.parametrize("recipe", ["Flat", "IVF16,PQ8", "IVF16,PQ8x4fs", "IVF16,SQ8"])
def test_a_whole_builds_files_are_foretold(built, recipe):
    """Vectors, ids, passages and the compressed index of a real build, within 5 %."""
    manifest = built(recipe, 1).manifest
    files = manifest.shards[0].segments[0].files
    text_bytes = sum(
        len(f"p{i}") + len(f"title {i % 7}") + len(f"text of passage {i}") + 9 for i in range(3_000)
    )
    cost = cost_of(
        Recipe.parse(recipe, 32),
        n_rows=3_000,
        dim=32,
        metric="inner_product",
        passage_bytes=round(text_bytes / 3_000),
    )
    assert cost.vectors == pytest.approx(files.vectors.n_bytes, rel=0.01)
    assert cost.ids == pytest.approx(files.ids.n_bytes, rel=0.05)
    assert cost.passages == pytest.approx(files.passages.n_bytes, rel=0.05)
    assert cost.index == pytest.approx(files.index.n_bytes if files.index else 0, rel=0.03)


@given(
    st.integers(1, 10**9), st.integers(1, 4_096), st.floats(0.5, 1), st.integers(2**28, 10**12),
    st.one_of(st.none(), st.integers(2**30, 10**12)), st.one_of(st.none(), st.integers(1, 256)),
)  # fmt: skip
def test_every_plan_is_legal(n_passages, dim, recall, memory, gpu_memory, n_shards):
    """What is proposed parses, trains, serves on its device, and fits unless a fault says not."""
    wish = Wish(
        n_passages=n_passages,
        dim=dim,
        recall=recall,
        memory_bytes=memory,
        gpu_memory_bytes=gpu_memory,
        n_shards=n_shards,
    )
    plans = make_plans(wish)
    assert plans
    assert [plan.fits for plan in plans] == sorted((plan.fits for plan in plans), reverse=True)
    for plan in plans:
        target = "gpu" if plan.device == "cuda" else "cpu"
        recipe = choose_recipe(
            plan.recipe, n_passages=n_passages, n_shards=plan.n_shards, dim=dim, target=target
        )
        over = plan.host_bytes > memory or (plan.gpu_bytes or 0) > (gpu_memory or 10**15)
        assert plan.fits != over
        assert (plan.replicas == 0) == over
        assert plan.n_probe <= min(recipe.n_lists, 2_048)
        assert (n_shards or plan.n_shards) == plan.n_shards
        assert (plan.gpu_bytes is None) == (plan.device == "cpu")


def test_what_will_not_fit_is_said_and_mended():
    """21 million passages of 768 in one shard of 16 GB don't fit, with figures; more shards do."""
    wish = Wish(n_passages=21_000_000, dim=768, memory_bytes=16 * 10**9, n_shards=1)
    by_recipe = {plan.recipe.partition(",")[2]: plan for plan in make_plans(wish)}
    (fault,) = by_recipe["Flat"].faults
    assert "one of 1 shards needs" in fault
    assert "--memory is 16.0 GB; take more --shards or smaller codes" in fault
    free = {p.recipe.partition(",")[2]: p for p in make_plans(
        Wish(n_passages=21_000_000, dim=768, memory_bytes=16 * 10**9))}  # fmt: skip
    assert free["Flat"].fits
    assert free["Flat"].n_shards > by_recipe["Flat"].n_shards
    assert free["PQ192x4fs"].n_shards == 1


def test_gpu_plans_appear_with_a_gpu():
    """A GPU's size brings recipes that it can hold, with the memory they take there."""
    plans = make_plans(Wish(n_passages=10**8, dim=768, gpu_memory_bytes=80 * 10**9))
    assert {plan.device for plan in plans} == {"cuda"}
    for plan in plans:
        assert plan.fits
        assert plan.gpu_bytes <= 80 * 10**9
    recipe = Recipe.parse("IVF4096,PQ96", 768)
    cost = cost_of(recipe, n_rows=10**6, dim=768, metric="inner_product", passage_bytes=0)
    assert 1.0 < gpu_bytes(recipe, cost, n_rows=10**6) / cost.index < 1.15


def test_more_recall_asks_for_more_lists():
    """The starting point grows with the recall wanted, up to every list."""
    points = [n_probe_for(recall, 1_024) for recall in (0.5, 0.87, 0.93, 0.97, 0.99, 0.995, 1.0)]
    assert points == [32, 32, 64, 128, 256, 512, 1_024]
    assert n_probe_for(0.95, 0) == 0


@pytest.mark.parametrize("wish", [{"recall": 0.0}, {"recall": 1.5}, {"n_passages": 0}])
def test_an_impossible_wish_is_refused(wish):
    """One line, naming the flag."""
    with pytest.raises(ConfigError, match="--"):
        make_plans(Wish(**{"n_passages": 10, "dim": 8} | wish))
