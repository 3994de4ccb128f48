"""faiss in the worker's process as a target, over real indexes, against exact search by numpy."""

import asyncio

import numpy as np
import pytest

from bench.stored import built
from deploy.bench.in_process import open_target
from deploy.bench.questions import draw
from deploy.cli.sources import open_source
from shard_server.bare import BareIndex
from shard_server.building.build import BuildOptions, build_index
from shoal import errors
from shoal.bench import LoadPlan, run_load

ADAPTER = "deploy.bench.in_process:open_target"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """800 clustered vectors as `rows.npy`, and 50 questions near them as `asked.npy`."""
    rng = np.random.default_rng(7)
    folder = tmp_path_factory.mktemp("faiss")
    centers = rng.standard_normal((30, 16))
    rows = centers[rng.integers(0, 30, 850)] + 0.5 * rng.standard_normal((850, 16))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    np.save(folder / "rows.npy", rows[:800].astype(np.float32))
    np.save(folder / "asked.npy", rows[800:].astype(np.float32))
    return folder


@pytest.fixture(scope="module", params=["Flat", "IVF16,PQ8"])
def index_dir(folder, request):
    """An index of two shards."""
    return built(folder / "rows.npy", request.param, n_shards=2, folder=folder)


def plan(folder, index_dir, **more):
    return LoadPlan(
        target=str(index_dir), adapter=ADAPTER, vectors_file=str(folder / "asked.npy"),
        **{"clients": 1, **more},
    )  # fmt: skip


async def test_exact_search_is_numpy_s(folder, index_dir):
    """The truth that recall is measured with: the stored float16 vectors, all of them."""
    rows = np.load(folder / "rows.npy").astype(np.float16).astype(np.float32)
    asked = np.load(folder / "asked.npy")
    ids = BareIndex(index_dir)
    async with open_target(plan(folder, index_dir)) as target:
        for request in range(5):
            reply = await target.exact(request)
            segments, places = ids.exact(asked[request : request + 1], 10)
            assert reply.ids == (tuple(ids.passages(segments[0], places[0], ("id",))[0]),)
            scores = np.sort(rows @ asked[request])[::-1][:10]
            found = [rows[int(name)] @ asked[request] for name in reply.ids[0]]
            assert found == pytest.approx(scores.tolist(), abs=1e-5)


async def test_a_run_finds_and_counts(folder, index_dir):
    """Its answers' recall is high at all lists, and its stages are what it did."""
    asked = plan(folder, index_dir, duration_s=0.4, warmup_s=0.1, recall_sample=20,
                 options={"n_probe": 16})  # fmt: skip
    for _ in range(5):  # on a busy machine so few calls fit in that none is of the sample
        report = await asyncio.to_thread(run_load, asked)
        assert report.errors == {}
        if report.recall is not None:
            break
    assert report.recall is not None
    assert report.recall.mean > 0.9
    assert list(report.stages_ms) == ["queue", "encode", "search", "fetch"]
    assert report.stages_ms["search"].mean > 0


async def test_what_only_a_router_knows_is_refused(folder, index_dir):
    """An operating point is the router's choice; texts want a model, and this index has none."""
    chosen = plan(folder, index_dir, options={"target_recall": 0.9})
    with pytest.raises(errors.InvalidArgumentError, match="--n-probe"):
        await open_target(chosen).__aenter__()
    texts = LoadPlan(target=str(index_dir), adapter=ADAPTER, clients=1)
    with pytest.raises(errors.ConfigError, match="bare vectors"):
        await open_target(texts).__aenter__()


def test_queries_are_drawn_from_an_index(folder, index_dir):
    """Stored vectors, as many as wanted, each of them there, by the seed."""
    rows = np.load(folder / "rows.npy").astype(np.float16).astype(np.float32)
    drawn = draw(str(index_dir), 20, 1, None).vectors
    assert drawn.shape == (20, 16)
    assert np.abs(drawn[:, None] - rows).max(axis=2).min(axis=1).max() < 1e-6
    assert np.array_equal(drawn, draw(str(index_dir), 20, 1, None).vectors)
    assert not np.array_equal(drawn, draw(str(index_dir), 20, 2, None).vectors)


def test_queries_are_drawn_from_a_corpus(tmp_path):
    """Titles and first sentences, of passages that are each as likely as any other."""
    lines = [f'{{"_id": "{i}", "title": "t{i}", "text": "s{i}. And more."}}' for i in range(200)]
    (tmp_path / "corpus.jsonl").write_text("\n".join(lines))
    drawn = draw(str(tmp_path / "corpus.jsonl"), 50, 1, None)
    assert len(set(drawn.texts)) == len(drawn.texts) == 50
    numbers = [int(text[1:].rstrip(".")) for text in drawn.texts]
    assert {text[0] for text in drawn.texts} == {"t", "s"}
    assert len(set(numbers)) == 50
    assert 70 < np.mean(numbers) < 130
    with pytest.raises(errors.CorpusError):
        draw(str(tmp_path / "missing.jsonl"), 5, 1, None)
    with pytest.raises(errors.ConfigError, match="is a corpus"):
        draw(str(tmp_path / "corpus.jsonl"), 5, 1, "vector")


def test_texts_are_drawn_from_an_index(folder, tmp_path):
    """Its passages' own titles and first sentences, over all shards."""
    lines = [f'{{"_id": "{i}", "title": "t{i}", "text": "s{i}. And more."}}' for i in range(8)]
    (tmp_path / "corpus.jsonl").write_text("\n".join(lines))
    vectors = tmp_path / "eight.npy"
    np.save(vectors, np.load(folder / "rows.npy")[:8])
    source = open_source(corpus=(str(tmp_path / "corpus.jsonl"),), vectors=str(vectors),
                         from_index=None, model="", device="cpu")  # fmt: skip
    options = BuildOptions(name="eight", n_shards=2, recipe="Flat")
    build_index(tmp_path / "index", source.passages, source.encode, options)
    drawn = draw(str(tmp_path / "index"), 100, 1, "text")
    assert {int(text[1:].rstrip(".")) for text in drawn.texts} == set(range(8))
    assert {text[0] for text in drawn.texts} == {"t", "s"}
