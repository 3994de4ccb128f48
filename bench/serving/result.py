"""What a comparison found, and the figures of its cells. Pure.

Rule: the rounds of a cell are pooled by their counts: percentiles come from the merged histogram,
never from the rounds' percentiles. A cell that failed says why, and has no figures.
"""

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hdrh.histogram import HdrHistogram

from bench.serving.loads import Kind, Load
from shoal.bench.record import MaxRate
from shoal.bench.report import LoadReport

_P99_MISSES = 0.01

CUT_SHORT = "cut short"
"""The failure of what an interrupted comparison didn't come to: no fault of a contestant."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One contestant under one closed loop: a report a round, or why there is none.

    `n_again` rounds were run again, because the generator had measured itself.
    """

    load: Load
    contestant: str
    reports: tuple[LoadReport, ...] = ()
    failure: str = ""
    n_again: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Knee:
    """One contestant's highest rate in an open loop, the reports of its trials, or why not."""

    kind: Kind
    contestant: str
    found: MaxRate | None = None
    reports: tuple[LoadReport, ...] = ()
    failure: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """A whole comparison; `about` says of each contestant what it is."""

    ground: str
    about: Mapping[str, str]
    cells: tuple[Cell, ...]
    knees: tuple[Knee, ...]
    circumstances: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    is_whole: bool = True

    @property
    def interruption(self) -> str:
        """What is to be known of a comparison that was cut short; empty for a whole one."""
        if self.is_whole:
            return ""
        n_left = sum(part.failure == CUT_SHORT for part in (*self.cells, *self.knees))
        return (
            f"{n_left} of {len(self.cells) + len(self.knees)} cells were not run, and the last may "
            "lack a round."
        )

    @property
    def faults(self) -> tuple[str, ...]:
        """Where the figures are the generator's own, and cells that failed."""
        found = []
        for cell in self.cells:
            where = f"{cell.load.label}, {cell.contestant}"
            told = cell.failure or next((r.generator.fault for r in cell.reports
                                         if r.generator.fault), "")  # fmt: skip
            if told and told != CUT_SHORT:
                found.append(f"{where}: {told}")
        found += [f"{k.kind}, open loop, {k.contestant}: {k.failure}" for k in self.knees
                  if k.failure and k.failure != CUT_SHORT]  # fmt: skip
        return tuple(found)

    def to_dict(self) -> dict[str, Any]:
        """The comparison for JSON, with every report in full."""
        return {
            "format": 1,
            "ground": self.ground,
            "about": dict(self.about),
            **self.circumstances,
            "notes": list(self.notes),
            "interruption": self.interruption,
            "faults": list(self.faults),
            "cells": [
                {
                    "load": cell.load.label,
                    "kind": cell.load.kind,
                    "clients": cell.load.clients,
                    "contestant": cell.contestant,
                    "failure": cell.failure,
                    "n_again": cell.n_again,
                    "figures": dataclasses.asdict(figures_of(cell.reports)),
                    "reports": [report.to_dict() for report in cell.reports],
                }
                for cell in self.cells
            ],
            "knees": [
                {
                    "kind": knee.kind,
                    "contestant": knee.contestant,
                    "failure": knee.failure,
                    "found": knee.found and dataclasses.asdict(knee.found),
                    "reports": [report.to_dict() for report in knee.reports],
                }
                for knee in self.knees
            ],
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """A cell's rounds as one.

    Attributes:
        n_calls: of the measured time, all rounds.
        queries_per_s: answered; the mean of the rounds, whose least and most stand beside it.
        p50_ms: of all calls.
        p99_ms: of all calls; None, which is never, where more than 1 % had no full answer.
        recall: at k, against exact search; None where no answer was compared.
        n_compared: questions that it is of.
        errors: calls that failed, by code; `n_degraded` were answered from a part of the corpus.
        lag_share: the generator's own share, of its worst round.
        busy: the share of the time in which its event loop had work, in its worst round.
        fault: why the figures are the generator's own; empty where they aren't.
    """

    n_calls: int
    queries_per_s: float
    least_per_s: float
    most_per_s: float
    p50_ms: float
    p99_ms: float | None
    recall: float | None
    n_compared: int
    errors: dict[str, int]
    n_degraded: int
    lag_share: float
    busy: float
    fault: str


def figures_of(reports: Sequence[LoadReport]) -> Figures:
    """The rounds of one cell pooled; all zeros where there is none."""
    errors: Counter[str] = Counter()
    for report in reports:
        errors += Counter(report.errors)
    n_calls = sum(report.n_calls for report in reports)
    n_full = sum(report.ok_ms.n for report in reports)
    rates = [report.queries_per_s for report in reports] or [0.0]
    compared = [report.recall for report in reports if report.recall is not None]
    n_compared = sum(recall.n for recall in compared)
    histogram = _merged(reports)
    is_kept = n_calls - n_full <= _P99_MISSES * n_calls
    return Figures(
        n_calls=n_calls,
        queries_per_s=sum(rates) / len(rates),
        least_per_s=min(rates),
        most_per_s=max(rates),
        p50_ms=_quantile_ms(histogram, 50.0),
        p99_ms=_quantile_ms(histogram, 99.0) if is_kept else None,
        recall=sum(r.mean * r.n for r in compared) / n_compared if n_compared else None,
        n_compared=n_compared,
        errors=dict(errors),
        n_degraded=sum(report.degraded_ms.n for report in reports),
        lag_share=max((report.generator.lag_share for report in reports), default=0.0),
        busy=max((report.generator.busy for report in reports), default=0.0),
        fault=next((r.generator.fault for r in reports if r.generator.fault), ""),
    )


def _merged(reports: Sequence[LoadReport]) -> Any:
    merged = None
    for report in reports:
        if not report.n_calls:
            continue
        histogram = HdrHistogram.decode(report.histogram)
        if merged is None:
            merged = histogram
        else:
            merged.add(histogram)
    return merged


def _quantile_ms(histogram: Any, percentile: float) -> float:
    return 0.0 if histogram is None else float(histogram.get_value_at_percentile(percentile)) / 1e3
