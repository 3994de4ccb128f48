"""Hits of one shard as columns, and the one order they have: by score, then by ordinal.

faiss leaves the order of equal scores open, within a row and at its end; here it is settled, so
that one shard and eight give the same answer. Pure; knows neither faiss nor protobuf.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Scores = npt.NDArray[np.float32]
Ordinals = npt.NDArray[np.int64]
Places = npt.NDArray[np.uint32]

NO_SCORE = np.float32(-np.inf)
"""The score of a filler, so that it sorts behind every hit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardHits:
    """Matrices of (n_queries, width), best first; fillers have ordinal -1 and score -inf.

    `segments` and `rows` are the hits' places in the shard. `exact` says whether the scores come
    from the stored vectors.
    """

    ordinals: Ordinals
    segments: Places
    rows: Places
    scores: Scores
    exact: bool

    def places(self) -> tuple[Places, Places]:
        """Segments and rows of the hits without the fillers, row-major."""
        real = self.ordinals >= 0
        return self.segments[real], self.rows[real]


def is_settled(scores: Scores, rows: npt.NDArray[np.int64]) -> bool:
    """Whether faiss's order stands: no two neighbours are equal, and no row ends in fillers.

    Args:
        scores: (n_queries, width), width at least 1, descending along each row; contiguous.
        rows: the same shape; -1 in fillers, which stand at the end.

    Returns:
        False also where a row begins with the score that the one before ends with: that is looked
        at too, because one comparison over everything is the cheapest.
    """
    flat = scores.reshape(-1)
    # count_nonzero, because `any` and `min` are Python around C: half the time of the cold call
    return not np.count_nonzero(flat[1:] == flat[:-1]) and not np.count_nonzero(rows[:, -1] < 0)


def in_order(scores: Scores, ordinals: Ordinals, rows: npt.NDArray[np.int64]) -> None:
    """Put each row's equal scores in the order of their ordinals, in place.

    Args:
        scores: (n_queries, width), descending along each row.
        ordinals: the same shape; -1 in fillers, which stand at the end.
        rows: the same shape, moved along with the ordinals.
    """
    tied = ((scores[:, 1:] == scores[:, :-1]) & (ordinals[:, 1:] >= 0)).any(axis=1)
    if tied.any():
        queries = np.flatnonzero(tied)
        order = np.lexsort((ordinals[queries], -scores[queries]), axis=-1)
        for matrix in (scores, ordinals, rows):
            matrix[queries] = np.take_along_axis(matrix[queries], order, axis=1)


def undecided(scores: Scores, ordinals: Ordinals, k: int) -> npt.NDArray[np.intp]:
    """Queries whose k-th score reaches the last column: an equal hit may lie beyond it.

    Args:
        scores: (n_queries, width), descending along each row.
        ordinals: the same shape.
        k: hits wanted.
    """
    if k >= scores.shape[1]:
        return np.empty(0, dtype=np.intp)
    return np.flatnonzero((scores[:, k - 1] == scores[:, -1]) & (ordinals[:, -1] >= 0))


def merge(parts: Sequence[ShardHits], k: int) -> ShardHits:
    """The best k of several segments' hits; every part answers the same queries."""
    if len(parts) == 1 and parts[0].scores.shape[1] <= k:
        return parts[0]
    scores = np.concatenate([part.scores for part in parts], axis=1)
    ordinals = np.concatenate([part.ordinals for part in parts], axis=1)
    order = np.lexsort((ordinals, -scores), axis=-1)[:, :k]

    def best(columns: list[npt.NDArray[np.uint32]]) -> Places:
        return np.take_along_axis(np.concatenate(columns, axis=1), order, axis=1)

    return ShardHits(
        ordinals=np.take_along_axis(ordinals, order, axis=1),
        segments=best([part.segments for part in parts]),
        rows=best([part.rows for part in parts]),
        scores=np.take_along_axis(scores, order, axis=1),
        exact=all(part.exact for part in parts),
    )


def stack(parts: Sequence[ShardHits]) -> ShardHits:
    """The hits of consecutive batches of queries, one below the other; all have the same width."""
    if len(parts) == 1:
        return parts[0]
    return ShardHits(
        ordinals=np.concatenate([part.ordinals for part in parts]),
        segments=np.concatenate([part.segments for part in parts]),
        rows=np.concatenate([part.rows for part in parts]),
        scores=np.concatenate([part.scores for part in parts]),
        exact=all(part.exact for part in parts),
    )


def no_hits(n_queries: int, *, exact: bool) -> ShardHits:
    """The answer of an empty shard: no columns."""
    shape = (n_queries, 0)
    return ShardHits(
        ordinals=np.empty(shape, dtype=np.int64),
        segments=np.empty(shape, dtype=np.uint32),
        rows=np.empty(shape, dtype=np.uint32),
        scores=np.empty(shape, dtype=np.float32),
        exact=exact,
    )
