"""Train the one index that all segments share: coarse quantizer and codebook, empty.

Rule: the same corpus, recipe and seed give the same bytes, whatever the number of shards. The
sample is drawn by ordinal, and rounded to float16 as all that is stored.
"""

from typing import Any

import faiss
import numpy as np
import numpy.typing as npt

from shard_server.building.progress import Progress
from shard_server.building.recipe import Recipe
from shoal.formats.manifest import Metric

_FAISS_METRICS = {"inner_product": faiss.METRIC_INNER_PRODUCT, "l2": faiss.METRIC_L2}


def faiss_metric(metric: Metric) -> int:
    """The number that faiss has for `metric`."""
    return int(_FAISS_METRICS[metric])


def draw_sample(
    vectors: npt.NDArray[np.float16], n_sample: int, seed: int
) -> npt.NDArray[np.float32]:
    """`n_sample` rows drawn without repeats, in ingestion order: float32 (n_sample, dim)."""
    n_rows = len(vectors)
    if n_sample >= n_rows:
        return np.asarray(vectors, dtype=np.float32)
    rows = np.random.default_rng(seed).choice(n_rows, n_sample, replace=False, shuffle=False)
    return vectors[np.sort(rows)].astype(np.float32)


def train_index(
    recipe: Recipe,
    sample: npt.NDArray[np.float32],
    *,
    metric: Metric,
    seed: int,
    progress: Progress,
) -> Any:
    """The trained, empty index of `recipe`, which has lists; `sample` is float32 (n, dim)."""
    index: Any = faiss.index_factory(sample.shape[1], recipe.text, faiss_metric(metric))
    n_steps = index.cp.niter + 1
    progress("train", 0, n_steps)
    clustering = faiss.Clustering(index.d, recipe.n_lists, index.cp)
    clustering.seed = seed
    clustering.niter = 1
    clustering.min_points_per_centroid = 1  # recipe.py has judged this; faiss would print
    # Each call goes on from the last one's centroids: faiss's own k-means, with reports between.
    for step in range(index.cp.niter):
        clustering.train(sample, index.quantizer)
        progress("train", step + 1, n_steps)
    if recipe.code_bits:
        index.pq.cp.seed = seed
        index.pq.cp.min_points_per_centroid = 1
    if recipe.code_bits == 8:
        # The factory asks for codes fit for Hamming distances, which nobody here measures:
        # annealing them takes 1.4 s a code (24 s of 25 for PQ16 on 3,000 vectors).
        index.do_polysemous_training = False
    index.train(sample)
    progress("train", n_steps, n_steps)
    return index
