"""A run from its first call to its record: check, truth, stages or the search for a rate.

Rule: what the generator can't do is a note or a fault of the run, and stands in its record.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from shoal.bench.load import TRUTH_BUDGET_S, Tick, Workers, start_workers
from shoal.bench.max_rate import Goal, Search, readable
from shoal.bench.plan import LoadPlan
from shoal.bench.queries import N_TEXTS
from shoal.bench.record import MaxRate
from shoal.bench.report import LoadReport
from shoal.bench.schedule import Stage
from shoal.bench.target import Served
from shoal.bench.truth import Truth
from shoal.errors import InvalidArgumentError

_PROBE_CLIENTS = 8
_PROBE_S = 2.0
_SAMPLES = 8
_TRUTH_TIMES = 4
"""A search's recall is measured trial by trial, each on its part of the list: so many times the
questions of a plain run are searched exactly, as far as so many times its seconds allow."""


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
    notes += repeats(plan, workers.n_sent)
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
        InvalidArgumentError: recall is part of the goal, and nobody can tell it.
        ShoalError: the target refuses the plan for good.
    """
    async with start_workers(plan) as workers:
        served = await workers.refuse_bad_plan()
        # each trial needs its part of the sample, and nobody knows how many there will be
        endless = Stage(rate=1e6, duration_s=stage.duration_s)
        times = 1 if goal.recall is None else _SAMPLES
        larger = replace(plan, recall_sample=times * plan.recall_sample)
        budget_s = TRUTH_BUDGET_S * (1 if goal.recall is None else _TRUTH_TIMES)
        truth, notes = await _truth(larger, workers, watcher, [endless], budget_s)
        if goal.recall is not None and truth is None:
            why = notes[0] if notes else "no call is searched exactly (--recall-sample 0)"
            raise InvalidArgumentError(f"a rate that keeps --recall can't be found: {why}")
        first = stage.rate or await _probe(workers, watcher)
        search = Search(goal, first)
        while (rate := search.next_rate()) is not None:
            at_rate = replace(stage, rate=rate, clients=None, to_rate=None)
            watcher.begin(at_rate, search.n_trials + 1, None)
            report = await workers.run(at_rate, truth, watcher.tick)
            watcher.end(report, search.learn(rate, report) or "met")
    notes += repeats(plan, workers.n_sent)
    return Outcome(served=served, reports=search.kept, notes=notes, max_rate=search.found)


def repeats(plan: LoadPlan, n_calls: int) -> tuple[str, ...]:
    """A note where `n_calls` asked so few texts again that an encoder's cache knows them. Pure."""
    n_texts, n_asked = len(plan.texts), n_calls * plan.batch
    if not 0 < n_texts < min(N_TEXTS, n_asked):
        return ()
    told = (
        f"{n_asked:,} questions were asked of {n_texts:,}: where an encoder caches, those that "
        f"came again took it no time; give more of them (--queries, --n-queries {N_TEXTS})"
    )
    return (told,)


async def _probe(workers: Workers, watcher: Watcher) -> float:
    """Half of what a few clients in a closed loop achieve."""
    probe = Stage(clients=_PROBE_CLIENTS, warmup_s=_PROBE_S / 2, duration_s=_PROBE_S)
    watcher.begin(probe, 0, None)
    report = await workers.run(probe, None, watcher.tick)
    watcher.end(report, "")
    return readable(max(1.0, report.calls_per_s / 2))


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
