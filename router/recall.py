"""Recall of answers against exact search, and how sure its mean is. Pure; knows no shards.

Rules:
1. A hit counts where its exact score reaches the k-th best exact score: whichever of several equal
   passages was found is as good as another. A rescored hit carries its exact score, bit for bit.
2. An interval is by queries, for the hits of one query are found or missed together. One imagined
   query of the worst outcome (of the best, for the upper end) is counted along, so that a perfect
   sample of n queries doesn't promise perfection: pseudo-observations, as Agresti and Coull 1998
   have them for proportions.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Recalls = npt.NDArray[np.float64]
Scores = npt.NDArray[np.float32]
Ordinals = npt.NDArray[np.int64]

Z_ONE_SIDED = 1.645
"""The normal distribution's 95 % point."""
Z_TWO_SIDED = 1.96
"""Its 97.5 % point: the middle 95 % lie within."""

NO_SCORE = np.float32(-np.inf)


class Estimate(NamedTuple):
    """The mean recall of `n` queries, and its 95 % interval."""

    recall: float
    low: float
    high: float
    n: int


EXACT = Estimate(recall=1.0, low=1.0, high=1.0, n=0)
"""Where every search is exact: nothing has to be measured to know it."""


def recalls_at(scores: Scores, kth_scores: Scores, k: int) -> Recalls:
    """Each query's recall at `k`, float64 (n_queries,).

    Args:
        scores: (n_queries, at least k) exact scores of what was found; -inf where there is no hit.
        kth_scores: (n_queries,) the k-th best exact score of each query.
        k: hits that count, at most what there is to find.
    """
    found = (scores[:, :k] >= kth_scores[:, None]) & np.isfinite(scores[:, :k])
    recalls: Recalls = found.sum(axis=1) / k
    return recalls


def exact_scores_of(
    ordinals: Ordinals, scores: Scores, *, is_exact: bool, exact: tuple[Ordinals, Scores]
) -> Scores:
    """The exact scores, (n,), of one query's n hits; -inf where nobody knows one.

    The exact search's own word goes first: shards on unlike processors differ by a rounding.

    Args:
        ordinals: (n,) the hits.
        scores: (n,) their scores as they were told.
        is_exact: whether those come from the stored vectors.
        exact: what exact search found, (m,) ordinals and scores.
    """
    known = dict(zip(exact[0].tolist(), exact[1].tolist(), strict=True))
    told = zip(ordinals.tolist(), scores.tolist(), strict=True)
    return np.array(
        [known.get(ordinal, score if is_exact else NO_SCORE) for ordinal, score in told],
        dtype=np.float32,
    )


def lower_bound(recalls: Recalls, z: float = Z_ONE_SIDED) -> float:
    """The recall that the mean over all queries like these exceeds, with the confidence of `z`.

    A perfect sample of n queries promises about 1 - (1 + z) / n.
    """
    sample = np.append(recalls, 0.0)
    bound = sample.mean() - z * sample.std(ddof=1) / np.sqrt(len(sample))
    return max(0.0, float(bound))


def estimate(recalls: Recalls) -> Estimate:
    """The mean of at least one query's recall, with its 95 % interval."""
    return Estimate(
        recall=float(recalls.mean()),
        low=lower_bound(recalls, Z_TWO_SIDED),
        high=1.0 - lower_bound(1.0 - recalls, Z_TWO_SIDED),
        n=len(recalls),
    )
