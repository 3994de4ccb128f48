"""Train the one index that all segments share: transform, coarse quantizer, codebook; empty.

Rule: the same corpus, recipe and seed give the same bytes, whatever the number of shards. The
sample is drawn by ordinal, and rounded to float16 as all that is stored. (A GPU sums otherwise than
a CPU: the same corpus trained there gives other bytes, as good.)
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt

from shard_server.building.progress import Progress
from shard_server.building.recipe import Recipe
from shard_server.building.staging import Output
from shard_server.faiss_files import faiss_metric
from shard_server.rotation import Rotation, take_apart
from shoal.errors import ConfigError
from shoal.formats.manifest import Metric

SAMPLE_FILE = "sample.f32"
TRAINED_FILE = "trained.faiss"
_BLOCK_ROWS = 8_192


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """A trained, empty index, and its file; `output` holds that where this build trained it."""

    index: Any
    path: Path
    n_lists: int
    sha256: str
    output: Output | None = None


def draw_rows(n_rows: int, n_sample: int, seed: int) -> npt.NDArray[np.int64]:
    """`n_sample` of `n_rows` rows drawn without repeats, ascending. Pure."""
    if n_sample >= n_rows:
        return np.arange(n_rows)
    rows = np.random.default_rng(seed).choice(n_rows, n_sample, replace=False, shuffle=False)
    return np.sort(rows)


def write_sample(
    vectors: npt.NDArray[np.float16], rows: npt.NDArray[np.int64], folder: Path
) -> None:
    """Write these rows of `vectors` (n, dim) as float32, a block at a time.

    A file and no array: 39 vectors for each of 65,536 lists of 768 dimensions are 7.9 GB.
    """
    with (folder / SAMPLE_FILE).open("wb") as file:
        for start in range(0, len(rows), _BLOCK_ROWS):
            file.write(vectors[rows[start : start + _BLOCK_ROWS]].astype("<f4").tobytes())


def open_sample(path: Path, dim: int) -> npt.NDArray[np.float32]:
    """What `write_sample` wrote, mapped: float32 (n_sample, dim)."""
    return np.asarray(np.memmap(path, dtype="<f4", mode="r").reshape(-1, dim))


def train_index(
    recipe: Recipe,
    sample: npt.NDArray[np.float32],
    *,
    metric: Metric,
    seed: int,
    progress: Progress,
) -> Any:
    """The trained, empty index of `recipe`, not Flat; `sample` is float32 (n, dim).

    Raises:
        ConfigError: faiss can't train the recipe on this sample.
    """
    index: Any = faiss.index_factory(sample.shape[1], recipe.text, faiss_metric(metric))
    transform, core = take_apart(index)
    n_steps = 1 + (core.cp.niter if recipe.n_lists else 0) + (transform is not None)
    report = _Steps(progress, n_steps)
    try:
        if transform is not None:
            _train_transform(transform, recipe, sample, metric=metric, seed=seed)
            sample = Rotation.of(transform).turn(sample)
            report.next()
        if recipe.n_lists:
            _train_lists(core, recipe, sample, seed=seed, report=report)
        _train_codes(core, recipe, sample, seed=seed)
    except RuntimeError as failure:
        reason = str(failure).strip().rpartition("\n")[2][-300:]
        raise ConfigError(f"recipe {recipe.text!r} can't be trained: {reason}") from failure
    index.is_trained = True
    report.next()
    return index


class _Steps:
    """Counts the steps of training."""

    def __init__(self, progress: Progress, n_steps: int) -> None:
        self._progress = progress
        self._n_steps = n_steps
        self._done = 0
        progress("train", 0, n_steps)

    def next(self) -> None:
        """One step is done."""
        self._done += 1
        self._progress("train", self._done, self._n_steps)


def _train_transform(
    transform: Any, recipe: Recipe, sample: npt.NDArray[np.float32], *, metric: Metric, seed: int
) -> None:
    if recipe.transform == "OPQ":
        # faiss would train OPQ for 8-bit codes, whatever follows: 4-bit ones fit less and train
        # in a fraction of the time.
        codes = faiss.ProductQuantizer(recipe.code_dim, recipe.n_codes, recipe.code_bits)
        codes.cp.seed = seed
        codes.cp.min_points_per_centroid = 1
        transform.pq = codes
        transform.train(sample)
        transform.pq = None
        return
    transform.train(sample)
    if metric == "inner_product":
        # Centred vectors have other inner products: the mean's share differs from passage to
        # passage (recall@10 of PCA24 on 48 off-centre dimensions: .40 centred, .55 not).
        transform.have_bias = False
        transform.b.clear()


def _train_lists(
    core: Any, recipe: Recipe, sample: npt.NDArray[np.float32], *, seed: int, report: _Steps
) -> None:
    clustering = faiss.Clustering(core.d, recipe.n_lists, core.cp)
    clustering.seed = seed
    clustering.niter = 1
    clustering.min_points_per_centroid = 1  # recipe.py has judged this; faiss would print
    assigner = _assigner(core.quantizer)
    # Each call goes on from the last one's centroids: faiss's own k-means, with reports between.
    for _ in range(core.cp.niter):
        clustering.train(sample, assigner)
        report.next()
    if assigner is not core.quantizer:
        core.quantizer.reset()
        core.quantizer.add(faiss.vector_to_array(clustering.centroids).reshape(-1, core.d))


def _assigner(quantizer: Any) -> Any:
    """What finds each vector's nearest centroid, nearly all of k-means' work: every GPU that faiss
    can use, each with a part of the vectors; without one, `quantizer` itself on all cores.
    """
    if not faiss.get_num_gpus():
        return quantizer
    to_all_gpus: Any = faiss.index_cpu_to_all_gpus
    return to_all_gpus(faiss.clone_index(quantizer))


def _train_codes(core: Any, recipe: Recipe, sample: npt.NDArray[np.float32], *, seed: int) -> None:
    if recipe.codec == "PQ":
        core.pq.cp.seed = seed
        core.pq.cp.min_points_per_centroid = 1
    if recipe.code_bits == 8:
        # The factory asks for codes fit for Hamming distances, which nobody here measures:
        # annealing them takes 1.4 s a code (24 s of 25 for PQ16 on 3,000 vectors).
        core.do_polysemous_training = False
    core.train(sample)
