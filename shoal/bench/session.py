"""A run from its first call to its record: check, truth, stages or the search for a rate.

Rule: what the generator can't do is a note or a fault of the run, and stands in its record.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from shoal.bench.load import TRUTH_BUDGET_S, Tick, Workers, start_workers
from shoal.bench.max_rate import Goal, Trial, highest, next_rate, readable
from shoal.bench.plan import LoadPlan
from shoal.bench.record import MaxRate
from shoal.bench.report import LoadReport
from shoal.bench.schedule import Stage
from shoal.bench.target import Served
from shoal.bench.truth import Truth

_PROBE_CLIENTS = 8
_PROBE_S = 2.0
_SAMPLES = 4
_MOST_VOID = 3


class Watcher(Protocol):
    """Hears of a run while it goes on."""

    def say(self, what: str) -> None:
        """Something else is done first."""

    def begin(self, stage: Stage, number: int, n_stages: int | None) -> None:
        """A stage begins; `n_stages` is None where nobody knows yet."""

    def tick(self, tick: Tick) -> None:
        """Half a second of one worker's has passed."""

    def end(self, report: LoadReport, verdict: str) -> None:
        """A stage is over; `verdict` is what it missed of a goal."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a session found."""

    served: Served
    reports: tuple[LoadReport, ...]
    notes: tuple[str, ...] = ()
    max_rate: MaxRate | None = None


async def run_stages(plan: LoadPlan, stages: Sequence[Stage], watcher: Watcher) -> Outcome:
    """Runs the stages one after the other; each begins when the last one's calls are answered.

    Raises:
        ShoalError: the target refuses the plan for good.
    """
    async with start_workers(plan) as workers:
        served = await workers.refuse_bad_plan()
        truth, notes = await _truth(plan, workers, watcher, stages)
        reports = []
        for number, stage in enumerate(stages, start=1):
            watcher.begin(stage, number, len(stages))
            report = await workers.run(stage, truth, watcher.tick)
            watcher.end(report, "")
            reports.append(report)
    return Outcome(served=served, reports=tuple(reports), notes=notes)


async def find_max(plan: LoadPlan, stage: Stage, goal: Goal, watcher: Watcher) -> Outcome:
    """Searches for the highest rate that meets the goal; the reports are its trials, by rate.

    Args:
        plan: what to ask of what.
        stage: how long a trial is, and how calls arrive; its rate is where the search begins. With
            clients instead, it begins at half of what they achieve.
        goal: what must hold.
        watcher: hears of each trial.

    Raises:
        ShoalError: the target refuses the plan for good.
    """
    async with start_workers(plan) as workers:
        served = await workers.refuse_bad_plan()
        # each trial needs its part of the sample, and nobody knows how many there will be
        endless = Stage(rate=1e6, duration_s=stage.duration_s)
        times = 1 if goal.recall is None else _SAMPLES
        larger = replace(plan, recall_sample=times * plan.recall_sample)
        budget_s = times * TRUTH_BUDGET_S
        truth, notes = await _truth(larger, workers, watcher, [endless], budget_s)
        search = _Search(workers=workers, stage=stage, goal=goal, truth=truth, watcher=watcher)
        await search.run()
    return Outcome(served=served, reports=search.kept, notes=notes, max_rate=search.found)


class _Search:
    """The trials of one search."""

    def __init__(
        self, *, workers: Workers, stage: Stage, goal: Goal, truth: Truth | None, watcher: Watcher
    ) -> None:
        self._workers = workers
        self._stage = stage
        self._goal = goal
        self._truth = truth
        self._watcher = watcher
        self._trials: list[Trial] = []
        self._told: list[tuple[float, str]] = []
        self._best: dict[float, LoadReport] = {}
        self._why = ""
        self._n_void: Counter[float] = Counter()

    async def run(self) -> None:
        """Tries rates until the answer is known, or the generator gives out."""
        first = self._stage.rate or await self._probe()
        while not self._why and (rate := next_rate(self._trials, first)) is not None:
            report = await self._try(rate)
            missed = self._goal.fault(report)
            self._watcher.end(report, missed or "met")
            self._told.append((rate, missed))
            if missed and self._goal.is_void(report):
                self._void(rate, report.generator.fault)
                continue
            self._trials.append(Trial(rate=rate, met=not missed))
            if rate not in self._best or not missed:
                self._best[rate] = report

    @property
    def kept(self) -> tuple[LoadReport, ...]:
        """One report a rate, the best of its trials, by rate."""
        return tuple(report for _, report in sorted(self._best.items()))

    @property
    def found(self) -> MaxRate:
        """The answer."""
        rate = highest(self._trials)
        why = self._why
        if rate is None and not why:
            last, missed = self._told[-1]
            why = f"no rate met it: {missed} at {last:g}/s"
        return MaxRate(
            p99_ms=self._goal.p99_ms,
            recall=self._goal.recall,
            calls_per_s=rate,
            why=why,
            trials=tuple(self._told),
        )

    def _void(self, rate: float, fault: str) -> None:
        """A trial that measured the generator: another may not, but it won't be tried for ever."""
        self._n_void[rate] += 1
        if self._n_void[rate] >= _MOST_VOID:
            self._why = f"at {rate:g}/s {fault}"

    async def _probe(self) -> float:
        """Half of what a few clients in a closed loop achieve."""
        probe = Stage(clients=_PROBE_CLIENTS, warmup_s=_PROBE_S / 2, duration_s=_PROBE_S)
        self._watcher.begin(probe, 0, None)
        report = await self._workers.run(probe, None, self._watcher.tick)
        self._watcher.end(report, "")
        return readable(max(1.0, report.calls_per_s / 2))

    async def _try(self, rate: float) -> LoadReport:
        at_rate = replace(self._stage, rate=rate, clients=None, to_rate=None)
        self._watcher.begin(at_rate, len(self._told) + 1, None)
        return await self._workers.run(at_rate, self._truth, self._watcher.tick)


async def _truth(
    plan: LoadPlan,
    workers: Workers,
    watcher: Watcher,
    stages: Sequence[Stage],
    budget_s: float = TRUTH_BUDGET_S,
) -> tuple[Truth | None, tuple[str, ...]]:
    if not plan.recall_sample:
        return None, ()
    watcher.say(f"searching questions exactly, for recall: {budget_s:g} s at most")
    truth, why = await workers.find_truth(plan.recall_sample, stages, budget_s)
    return truth, (f"recall is not measured: {why}",) if why else ()
