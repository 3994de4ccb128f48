"""What a comparison has found so far, so that one that is cut short has a result. Pure.

Rule: what was run keeps its figures; what was not says why there are none.
"""

from dataclasses import dataclass, field, replace

from bench.serving.loads import OPEN, Kind, Load
from bench.serving.result import Cell, Knee
from shoal.bench.max_rate import Search
from shoal.bench.report import LoadReport


@dataclass(slots=True)
class Findings:
    """Grows while a comparison runs; a search is under way until its knee is there."""

    cells: dict[tuple[Load, str], Cell] = field(default_factory=dict)
    knees: dict[tuple[Kind, str], Knee] = field(default_factory=dict)
    searches: dict[tuple[Kind, str], Search] = field(default_factory=dict)
    trials: dict[tuple[Kind, str], list[LoadReport]] = field(default_factory=dict)

    @property
    def has_figures(self) -> bool:
        """Whether anything was measured to its end."""
        return any(cell.reports for cell in self.cells.values())

    def ended(self, why: str) -> tuple[tuple[Cell, ...], tuple[Knee, ...]]:
        """All cells and highest rates; `why` is told of what has no end."""
        cells = tuple(
            cell if cell.reports or cell.failure else replace(cell, failure=why)
            for cell in self.cells.values()
        )
        return cells, tuple(self._knee(kind, name, why) for kind, name in OPEN)

    def _knee(self, kind: Kind, name: str, why: str) -> Knee:
        key = (kind, name)
        if key in self.knees:
            return self.knees[key]
        if key in self.searches:
            return knee_of(kind, name, self.searches[key], self.trials[key], why)
        return Knee(kind=kind, contestant=name, failure=why)


def knee_of(kind: Kind, name: str, search: Search, trials: list[LoadReport], why: str) -> Knee:
    """What a search came to; one that was ended early says so and keeps the best so far."""
    found = search.found
    if why and found.calls_per_s is None:
        return Knee(kind=kind, contestant=name, reports=tuple(trials), failure=why)
    return Knee(
        kind=kind,
        contestant=name,
        found=replace(found, why=why) if why else found,
        reports=tuple(trials),
    )
