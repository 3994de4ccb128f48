"""Merges the shards' hits into the best k of a query. Pure: no grpc, no asyncio.

The order is total: by score, best first, then by ordinal; so it is the same for 1 shard and for 8.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

NO_HIT = -1


class ShardHits(NamedTuple):
    """One shard's hits: matrices of (n_queries, width), best first, filled up with ordinal -1.

    A tuple, as what else is made once a query and shard: it takes a fifth of a frozen dataclass's
    time to make.
    """

    ordinals: npt.NDArray[np.int64]
    segments: npt.NDArray[np.uint32]
    rows: npt.NDArray[np.uint32]
    scores: npt.NDArray[np.float32]


class Winners(NamedTuple):
    """The best hits: matrices of (n_queries, at most k), filled up with part -1.

    `parts` says which of the merged inputs a hit came from, `columns` its column there.
    """

    parts: npt.NDArray[np.int64]
    columns: npt.NDArray[np.int64]
    ordinals: npt.NDArray[np.int64]
    scores: npt.NDArray[np.float32]


def merge_top_k(
    parts: Sequence[ShardHits], k: int, *, offset: int = 0, score_threshold: float | None = None
) -> Winners:
    """The hits ranked offset + 1 to offset + k over all parts, for each query.

    Args:
        parts: at least one, of the same number of queries.
        k: hits wanted.
        offset: hits to skip from the best on.
        score_threshold: leave out hits that score lower.
    """
    part_of, column_of = _origins(tuple(part.ordinals.shape[1] for part in parts))
    ordinals = np.concatenate([part.ordinals for part in parts], axis=1)
    scores = np.concatenate([part.scores for part in parts], axis=1)
    absent = ordinals < 0
    if score_threshold is not None:
        absent |= scores < score_threshold
    # the fillers go last whatever their score: absent is the first key of the order
    order = np.lexsort((ordinals, -scores, absent), axis=-1)[:, offset : offset + k]
    # places in the flat matrices: np.take on them is several times cheaper than take_along_axis
    places = order + np.arange(len(ordinals))[:, None] * ordinals.shape[1]
    return Winners(
        parts=np.where(absent.take(places), NO_HIT, part_of[order]),
        columns=column_of[order],
        ordinals=ordinals.take(places),
        scores=scores.take(places),
    )


@lru_cache(maxsize=256)
def _origins(widths: tuple[int, ...]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """For each column of the parts laid side by side: which part it is of, and its column there."""
    part_of = np.repeat(np.arange(len(widths)), widths)
    column_of = np.concatenate([np.arange(width) for width in widths])
    return part_of, column_of
