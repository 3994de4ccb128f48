"""What to promise of what was measured: recall's lower bound, the Pareto front, the defaults. Pure.

Rules:
1. A promise is the lower end of a one-sided 95 % confidence interval, of the worst kind of query
   where several kinds were asked.
2. Noise only ever adds time: a setting takes no longer than one that does more.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from router.recall import Recalls, lower_bound

CONFIDENCE = 0.95
_LEAST_GAIN = 0.001
"""A point that promises less than this above a cheaper one is noise, and left out."""

Kinds = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One setting: milliseconds a query, and by k each query's recall, float64 (n_queries,)."""

    n_probe: int
    candidates: int
    ms: float
    recalls: Mapping[int, Recalls]


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A setting at one k: mean recall, the recall that it promises, and its place on the front."""

    k: int
    n_probe: int
    candidates: int
    recall: float
    promised: float
    ms: float
    on_front: bool = False

    @property
    def oversample(self) -> float:
        """The factor that asks for `candidates` at `k`."""
        return self.candidates / self.k


def promised_recall(recalls: Recalls, kinds: Kinds) -> float:
    """The lower bound of the kind of query that fares worst; `kinds` is int64 (n_queries,)."""
    return min(lower_bound(recalls[kinds == kind]) for kind in np.unique(kinds))


def points_of(cells: Sequence[Cell], k: int, kinds: Kinds) -> tuple[Point, ...]:
    """All settings at `k`, cheapest first, with those on the Pareto front marked."""
    points = sorted(
        (
            Point(
                k=k,
                n_probe=cell.n_probe,
                candidates=cell.candidates,
                recall=float(cell.recalls[k].mean()),
                promised=promised_recall(cell.recalls[k], kinds),
                ms=_without_noise(cell, cells),
            )
            for cell in cells
            if cell.candidates >= k
        ),
        key=lambda point: (point.ms, point.n_probe, point.candidates),
    )
    return _mark_front(points)


def front_of(points: Sequence[Point]) -> tuple[Point, ...]:
    """Those on the front, cheapest first: their promises ascend too."""
    return tuple(point for point in points if point.on_front)


def default_point(front: Sequence[Point], target_recall: float) -> Point:
    """The cheapest of a front that promises `target_recall`, else the one that promises most."""
    return next((point for point in front if point.promised >= target_recall), front[-1])


def _mark_front(points: Sequence[Point]) -> tuple[Point, ...]:
    marked = []
    best = -_LEAST_GAIN
    for point in points:
        gains = point.promised >= best + _LEAST_GAIN
        best = max(best, point.promised) if gains else best
        marked.append(
            Point(
                k=point.k,
                n_probe=point.n_probe,
                candidates=point.candidates,
                recall=point.recall,
                promised=point.promised,
                ms=point.ms,
                on_front=gains,
            )
        )
    return tuple(marked)


def _without_noise(cell: Cell, cells: Sequence[Cell]) -> float:
    """The least time of the settings that do at least as much."""
    return min(
        other.ms
        for other in cells
        if other.n_probe >= cell.n_probe and other.candidates >= cell.candidates
    )
