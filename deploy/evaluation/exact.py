"""Exact search in float32, block by block: the measure of everything else. Pure numpy."""

import numpy as np
import numpy.typing as npt

from shoal.formats.manifest import Metric
from shoal.vectors import Matrix

Positions = npt.NDArray[np.int64]

_BLOCK_ROWS = 65_536
_QUERIES = 128


def exact_search(
    query_vectors: Matrix, passage_vectors: npt.NDArray[np.floating], k: int, metric: Metric
) -> Positions:
    """The best `k` rows of each query, best first, ties by row: int64 (n_queries, min(k, n)).

    Args:
        query_vectors: float32 (n_queries, dim).
        passage_vectors: (n, dim), of any floating dtype, maybe mapped; taken as float32.
        k: rows wanted.
        metric: inner product, or squared L2 distance.
    """
    k = min(k, len(passage_vectors))
    scores = np.empty((len(query_vectors), 0), dtype=np.float32)
    rows = np.empty((len(query_vectors), 0), dtype=np.int64)
    for start in range(0, len(passage_vectors), _BLOCK_ROWS):
        block = passage_vectors[start : start + _BLOCK_ROWS].astype(np.float32)
        of_block = _best_of_block(query_vectors, block, k, metric)
        # the blocks come by row, and a stable sort leaves ties so
        scores = np.concatenate([scores, of_block[0]], axis=1)
        rows = np.concatenate([rows, of_block[1] + start], axis=1)
        order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        scores = np.take_along_axis(scores, order, axis=1)
        rows = np.take_along_axis(rows, order, axis=1)
    return rows


def score_rows(
    query_vector: npt.NDArray[np.float32], passage_vectors: npt.NDArray[np.floating], metric: Metric
) -> npt.NDArray[np.float32]:
    """The scores of (n, dim) passages for one query of (dim,), higher being better."""
    scores: npt.NDArray[np.float32] = _scores(
        query_vector[None], passage_vectors.astype(np.float32), metric
    )[0]
    return scores


def _best_of_block(
    query_vectors: Matrix, block: Matrix, k: int, metric: Metric
) -> tuple[npt.NDArray[np.float32], Positions]:
    k = min(k, len(block))
    best_scores = np.empty((len(query_vectors), k), dtype=np.float32)
    best_rows = np.empty((len(query_vectors), k), dtype=np.int64)
    for start in range(0, len(query_vectors), _QUERIES):
        scores = _scores(query_vectors[start : start + _QUERIES], block, metric)
        least = np.partition(scores, len(block) - k, axis=1)[:, len(block) - k]
        for number, row in enumerate(scores):
            there = np.flatnonzero(row >= least[number])
            best = there[np.argsort(-row[there], kind="stable")][:k]
            best_rows[start + number] = best
            best_scores[start + number] = row[best]
    return best_scores, best_rows


def _scores(query_vectors: Matrix, block: Matrix, metric: Metric) -> npt.NDArray[np.float32]:
    products: npt.NDArray[np.float32] = query_vectors @ block.T
    if metric == "l2":
        lengths = (query_vectors**2).sum(axis=1)[:, None] + (block**2).sum(axis=1)
        return np.asarray(2 * products - lengths, dtype=np.float32)
    return products
