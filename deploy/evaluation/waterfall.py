"""Where each point was lost: searches in a row, each differing from the one before in one thing.

A step's loss is the figure before it less the figure after it, so that all losses add up to the
whole way from the first search to the last, whatever they measure. Pure.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

Values = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """One search's outcome. `name` says what it is, `change` what sets it apart from the level
    before; `values` are each question's, by metric, float64 (n_questions,).
    """

    name: str
    change: str
    values: Mapping[str, Values]

    def figure(self, metric: str) -> float:
        """The mean over all questions."""
        return float(self.values[metric].mean())


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What one change cost, by metric; below 0 where it gained. `n_lost` and `n_won` count the
    questions that fared worse and better by each metric.
    """

    change: str
    lost: Mapping[str, float]
    n_lost: Mapping[str, int]
    n_won: Mapping[str, int]


def steps_of(levels: Sequence[Level]) -> list[Step]:
    """The steps between levels, one fewer than there are."""
    steps = []
    for before, after in pairwise(levels):
        lost, n_lost, n_won = {}, {}, {}
        for metric, values in after.values.items():
            lost[metric] = before.figure(metric) - after.figure(metric)
            n_lost[metric] = int((values < before.values[metric]).sum())
            n_won[metric] = int((values > before.values[metric]).sum())
        steps.append(Step(change=after.change, lost=lost, n_lost=n_lost, n_won=n_won))
    return steps


def points(figure: float, *, sign: str = "") -> str:
    """Points of a hundred with two decimals, "0.00" where they round to nothing.

    Args:
        figure: points.
        sign: "+" to have gains begin with one.
    """
    shown = f"{figure:{sign}.2f}"
    return shown if float(shown) else "0.00"


def total_lost(levels: Sequence[Level]) -> dict[str, float]:
    """By metric, what was lost from the first level to the last."""
    return {
        metric: levels[0].figure(metric) - levels[-1].figure(metric) for metric in levels[0].values
    }
