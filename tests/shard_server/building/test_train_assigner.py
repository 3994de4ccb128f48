"""k-means asks every GPU for the nearest centroids where there is one; the index is the same."""

import faiss
import numpy as np
import pytest

from shard_server.building import train
from shard_server.building.progress import silent
from shard_server.building.recipe import Recipe
from shard_server.building.train import draw_rows, open_sample, train_index, write_sample


@pytest.fixture
def sample(rng) -> np.ndarray:
    centers = rng.standard_normal((16, 32), dtype=np.float32)
    return centers[rng.integers(16, size=4_000)] + 0.1 * rng.standard_normal(
        (4_000, 32), dtype=np.float32
    )


def trained(text: str, sample: np.ndarray):
    recipe = Recipe.parse(text, sample.shape[1])
    return train_index(recipe, sample, metric="inner_product", seed=3, progress=silent)


@pytest.mark.parametrize("text", ["IVF16,PQ8x4fs", "PCA16,IVF16,SQ8", "IVF16,Flat"])
def test_centroids_found_elsewhere_are_the_indexs_own(sample, monkeypatch, text: str):
    """With a copy of the quantizer in a GPU's place, the trained bytes are the CPU's."""
    on_cpu = faiss.serialize_index(trained(text, sample))
    copies = []

    def to_all_gpus(quantizer):
        copies.append(quantizer)
        return quantizer

    monkeypatch.setattr(train.faiss, "get_num_gpus", lambda: 1)
    monkeypatch.setattr(train.faiss, "index_cpu_to_all_gpus", to_all_gpus)
    assert np.array_equal(faiss.serialize_index(trained(text, sample)), on_cpu)
    assert len(copies) == 1


@pytest.mark.gpu
def test_lists_trained_on_gpus_are_as_tight(sample, monkeypatch):
    """Another order of sums, other centroids; products with the nearest are as large, to 2 %."""

    def nearness(index) -> float:
        quantizer = faiss.downcast_index(faiss.extract_index_ivf(index).quantizer)
        return float(quantizer.search(sample, 1)[0].mean())

    if not faiss.get_num_gpus():
        pytest.skip("faiss sees no GPU")
    on_gpu = nearness(trained("IVF16,SQ8", sample))
    monkeypatch.setattr(train.faiss, "get_num_gpus", lambda: 0)
    assert on_gpu >= 0.98 * nearness(trained("IVF16,SQ8", sample))


@pytest.mark.parametrize("n_sample", [1, 500, 1_000, 5_000])
def test_a_sample_is_drawn_rows_in_order(tmp_path, rng, n_sample: int):
    """Without repeats, ascending, the same for the same seed; the file holds those rows."""
    vectors = rng.standard_normal((1_000, 8)).astype(np.float16)
    rows = draw_rows(1_000, n_sample, seed=4)
    assert len(rows) == min(n_sample, 1_000)
    assert (np.diff(rows) > 0).all()
    assert rows[-1] < 1_000
    assert np.array_equal(rows, draw_rows(1_000, n_sample, seed=4))
    write_sample(vectors, rows, tmp_path)
    found = open_sample(tmp_path / "sample.f32", 8)
    assert found.dtype == np.float32
    assert np.array_equal(found, vectors[rows].astype(np.float32))
