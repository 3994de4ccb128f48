"""How sure a mean over questions is: percentile intervals by bootstrap. Pure, seeded.

Efron 1979: questions are drawn again with replacement, as many as there are, and the middle 95 % of
the drawn means is the interval (Sakai 2006 uses it for retrieval). All metrics share the draws.
"""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

N_RESAMPLES = 1000
CONFIDENCE = 0.95
_ROWS = 100

Values = npt.NDArray[np.float64]


def intervals(
    values: Mapping[str, Values],
    *,
    n_resamples: int = N_RESAMPLES,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> dict[str, tuple[float, float]]:
    """By name, the interval (low, high) of the mean.

    Args:
        values: by name, one float64 value a question, (n_questions,), all of the same length.
        n_resamples: draws.
        confidence: the share of the drawn means within the interval.
        seed: of the draws.
    """
    if not values:
        return {}
    matrix = np.stack(list(values.values()), axis=1)
    n_questions = len(matrix)
    rng = np.random.default_rng(seed)
    means = np.empty((n_resamples, matrix.shape[1]))
    for start in range(0, n_resamples, _ROWS):
        n_rows = min(_ROWS, n_resamples - start)
        # how often each question is drawn says all that a resample is
        counts = rng.multinomial(n_questions, np.full(n_questions, 1 / n_questions), size=n_rows)
        means[start : start + n_rows] = counts @ matrix / n_questions
    edge = (1 - confidence) / 2
    low, high = np.quantile(means, [edge, 1 - edge], axis=0)
    return {name: (float(a), float(b)) for name, a, b in zip(values, low, high, strict=True)}
