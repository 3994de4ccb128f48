"""Two runs side by side, as ratios, and whether the second is worse. Pure.

Rule: figures are compared where the load was the same, stage by stage; two searches for the highest
rate under one goal by what they found, for their trials near it are all noise. A run that was the
generator's own fault is no measure of anything, and neither are two with nothing in common.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from shoal.bench.record import MaxRate, RunRecord
from shoal.bench.report import LoadReport
from shoal.errors import InvalidArgumentError

_RECALL_STEP = 0.005
"""Recall's own noise from run to run; a ratio would make nothing of the step from .99 to .98."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratio:
    """One figure of both runs; `worse` where the second is past the threshold."""

    stage: str
    figure: str
    first: float
    second: float
    worse: bool

    @property
    def ratio(self) -> float | None:
        """Second over first; None where the first is 0."""
        return self.second / self.first if self.first else None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Figure:
    name: str
    of: Callable[[LoadReport], float | None]
    more_is_worse: bool = True
    step: float | None = None


_FIGURES = (
    _Figure(name="queries/s", of=lambda r: r.queries_per_s, more_is_worse=False),
    _Figure(name="p50 ms", of=lambda r: r.latency_ms.p50),
    _Figure(name="p90 ms", of=lambda r: r.latency_ms.p90),
    _Figure(name="p99 ms", of=lambda r: r.latency_ms.p99),
    _Figure(name="failed share", of=lambda r: r.failed_share, step=0.001),
    _Figure(name="shards missing", of=lambda r: r.degraded_ms.n / max(1, r.n_calls), step=0.001),
    _Figure(name="recall", of=lambda r: r.recall.mean if r.recall else None, more_is_worse=False,
            step=_RECALL_STEP),
    _Figure(name="coverage", of=lambda r: r.coverage_mean, more_is_worse=False, step=_RECALL_STEP),
)  # fmt: skip


def ratios_of(first: RunRecord, second: RunRecord, threshold: float) -> list[Ratio]:
    """Every figure of the stages that both runs have; of two searches, the highest rate.

    Args:
        first: what to compare with.
        second: what may be worse.
        threshold: by which share a rate or a latency may be worse: 0.1 is 10 %. Shares of calls
            and recall have steps of their own: 0.001 and 0.005.

    Raises:
        InvalidArgumentError: the runs have nothing in common, or one can't be trusted.
    """
    for record, which in ((first, "first"), (second, "second")):
        if record.fault:
            raise InvalidArgumentError(f"the {which} run measures nothing: {record.fault}")
    if first.max_rate is not None and second.max_rate is not None:
        return [_of_searches(first.max_rate, second.max_rate, threshold)]
    ratios = [
        ratio
        for one, other in _common(first.reports, second.reports)
        for ratio in _ratios(one, other, threshold)
    ]
    if not ratios:
        loads = " and ".join(
            ", ".join(report.label for report in record.reports) for record in (first, second)
        )
        raise InvalidArgumentError(f"the runs have no load in common: {loads}")
    return ratios


def _of_searches(one: MaxRate, other: MaxRate, threshold: float) -> Ratio:
    if (one.p99_ms, one.recall) != (other.p99_ms, other.recall):
        raise InvalidArgumentError(
            f"the searches had different goals: {_goal(one)} and {_goal(other)}"
        )
    before, after = one.calls_per_s or 0.0, other.calls_per_s or 0.0  # None: no rate met it
    return Ratio(
        stage=_goal(one),
        figure="highest rate",
        first=before,
        second=after,
        worse=before - after > threshold * before + 1e-12,
    )


def _goal(found: MaxRate) -> str:
    goal = f"p99 {found.p99_ms:g} ms"
    return goal if found.recall is None else f"{goal}, recall {found.recall:g}"


def _common(
    first: Sequence[LoadReport], second: Sequence[LoadReport]
) -> list[tuple[LoadReport, LoadReport]]:
    loads = {(report.label, report.arrivals, report.batch): report for report in second}
    pairs = []
    for report in first:
        other = loads.get((report.label, report.arrivals, report.batch))
        if other is not None:
            pairs.append((report, other))
    return pairs


def _ratios(one: LoadReport, other: LoadReport, threshold: float) -> list[Ratio]:
    ratios = []
    for figure in _FIGURES:
        before, after = figure.of(one), figure.of(other)
        if before is None or after is None:
            continue
        ratios.append(
            Ratio(
                stage=one.label,
                figure=figure.name,
                first=before,
                second=after,
                worse=_is_worse(figure, before, after, threshold),
            )
        )
    return ratios


def _is_worse(figure: _Figure, before: float, after: float, threshold: float) -> bool:
    step = threshold * before if figure.step is None else figure.step
    return (after - before if figure.more_is_worse else before - after) > step + 1e-12
