"""One query of an answer, kept for finding out later how good the answer was. Values only."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from router.merge import NO_HIT
from router.query import SearchQuery
from router.search import Found
from router.topology import IndexVersion
from shoal.vectors import Matrix

MAX_K = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """One query and the best hits that it was answered with: at most 10, as many as were asked for.

    `vector` is (1, dim); `ordinals` and `scores` are (n_hits,), n_hits at most `k`.
    `has_exact_scores` says whether the scores come from the stored vectors.
    """

    version: IndexVersion
    vector: Matrix
    k: int
    ordinals: npt.NDArray[np.int64]
    scores: npt.NDArray[np.float32]
    has_exact_scores: bool

    @classmethod
    def of(cls, query: SearchQuery, found: Found, number: int) -> "Answered":
        """Query `number` of a call; copied, or all of its answer would be kept for one query's."""
        winners, k = found.winners, min(query.k, MAX_K)
        n_hits = int(np.count_nonzero(winners.parts[number, :k] != NO_HIT))
        return cls(
            version=query.index,
            vector=found.query_vectors[number : number + 1].copy(),
            k=k,
            ordinals=winners.ordinals[number, :n_hits].copy(),
            scores=winners.scores[number, :n_hits].copy(),
            has_exact_scores=found.is_exact,
        )


def is_measurable(query: SearchQuery, found: Found) -> bool:
    """Whether an answer's recall is the approximation's: the best k of everything, unfiltered.

    Bulk is left out: a sweep over settings would tell of itself, and not of what users get.
    """
    return not (
        query.exact
        or query.offset
        or query.is_bulk
        or query.score_threshold is not None
        or found.coverage < 1.0
    )
