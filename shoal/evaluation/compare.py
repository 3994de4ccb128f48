"""Two searches question by question: which each wins, and how sure the difference is. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from shoal.evaluation.bootstrap import intervals


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """`wins` and `losses` are ids of questions, those of the largest difference first.

    `difference` is the mean of the first less the second's, with its interval.
    """

    metric: str
    wins: tuple[str, ...]
    losses: tuple[str, ...]
    n_ties: int
    difference: float
    interval: tuple[float, float]


def compare(
    metric: str,
    query_ids: Sequence[str],
    first: npt.NDArray[np.float64],
    second: npt.NDArray[np.float64],
) -> Comparison:
    """Compares two searches' values of one metric, each float64 (n_questions,), by question."""
    gains = first - second
    order = np.argsort(-np.abs(gains), kind="stable")
    return Comparison(
        metric=metric,
        wins=tuple(query_ids[i] for i in order if gains[i] > 0),
        losses=tuple(query_ids[i] for i in order if gains[i] < 0),
        n_ties=int(np.count_nonzero(gains == 0)),
        difference=float(gains.mean()),
        interval=intervals({metric: gains})[metric],
    )
