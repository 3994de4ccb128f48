"""Runs a comparison: closed loops in turns, then each one's highest rate, within a time.

Rule: whatever fails is a cell that says so, and the rest goes on; no step begins for which there is
no time. A round in which the generator measured itself is run once more, and told. A cancelled
comparison ends at once, and what it found so far is its result.
"""

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

from bench.serving.findings import Findings, knee_of
from bench.serving.lane import Lane
from bench.serving.loads import FIELD, LOADS, OPEN, Kind, Turn, turns
from bench.serving.result import CUT_SHORT, Cell, Knee, figures_of
from shoal.bench.max_rate import Goal, Search, readable
from shoal.bench.schedule import Stage
from shoal.errors import ShoalError

P99_MS = 100.0
_PRECISION = 0.1
_OVERHEAD_S = 1.0
"""What a stage takes beside its own length: starting in step, and the last answers."""
_NO_TIME = "not run: the time was over"

Say = Callable[[str], None]
Lanes = Mapping[tuple[str, Kind], Lane]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """How long a closed loop and a trial of an open one are, and how often the first is run."""

    n_rounds: int = 2
    warmup_s: float = 1.0
    duration_s: float = 3.0
    trial_warmup_s: float = 0.7
    trial_s: float = 3.3
    seed: int = 0


@dataclass(slots=True)
class Clock:
    """Until when (`time.monotonic()`) steps may take."""

    until_s: float
    begun_s: float = field(default_factory=time.monotonic)

    def allows(self, stage: Stage) -> bool:
        """Whether there is time for a stage."""
        return time.monotonic() + stage.total_s + _OVERHEAD_S < self.until_s

    @property
    def passed(self) -> str:
        """The time since the beginning, for people."""
        return f"[{time.monotonic() - self.begun_s:4.0f} s]"


async def compare(
    lanes: Lanes, failures: Mapping[str, str], rules: Rules, clock: Clock, say: Say
) -> tuple[Findings, bool]:
    """Everything, and whether it came to its end: `asyncio.run` cancels its task at a Ctrl-C."""
    found = Findings()
    try:
        await run_closed(found, lanes, failures, rules, clock, say)
        await run_open(found, lanes, rules, clock, say)
    except asyncio.CancelledError:
        if (task := asyncio.current_task()) is not None:
            task.uncancel()
        return found, False
    finally:
        for lane in lanes.values():
            await lane.close()
    return found, True


async def run_closed(
    found: Findings,
    lanes: Lanes,
    failures: Mapping[str, str],
    rules: Rules,
    clock: Clock,
    say: Say,
) -> None:
    """Every contestant under every closed loop; of those in `failures` why not."""
    cells = found.cells
    for load in LOADS:
        for name in FIELD[load.kind]:
            cells[load, name] = Cell(load=load, contestant=name, failure=failures.get(name, ""))
    for turn in turns(LOADS, rules.n_rounds, rules.seed):
        key = (turn.load, turn.contestant)
        if turn.contestant in failures:
            continue
        before = cells[key]
        cells[key] = await _turn(before, lanes, rules, clock)
        say(f"{clock.passed} {told(turn, cells[key], ran=cells[key] is not before)}")


async def _turn(cell: Cell, lanes: Lanes, rules: Rules, clock: Clock) -> Cell:
    """The cell with one round more; the same one where there was no time."""
    stage = Stage(clients=cell.load.clients, warmup_s=rules.warmup_s, duration_s=rules.duration_s)
    lane = lanes[cell.contestant, cell.load.kind]
    report = None
    for is_again in (False, True):
        if not clock.allows(stage):
            break
        try:
            report = await lane.run(stage, clock.until_s)
        except ShoalError as failure:
            return replace(cell, failure=failure.message)
        cell = replace(cell, n_again=cell.n_again + is_again)
        if not report.generator.fault:
            break
    if report is not None:
        return replace(cell, reports=(*cell.reports, report))
    return cell if cell.reports or cell.failure else replace(cell, failure=_NO_TIME)


def told(turn: Turn, cell: Cell, *, ran: bool) -> str:
    """What a turn showed, in a line."""
    where = f"{turn.load.label}: {turn.contestant}"
    if not ran:
        return f"{where}: {_NO_TIME}"
    if cell.failure:
        return f"{where} FAILED: {cell.failure}"
    figures = figures_of(cell.reports[-1:])
    p99 = "never" if figures.p99_ms is None else f"{figures.p99_ms:.1f}"
    fault = f" - {figures.fault}" if figures.fault else ""
    return f"{where}: {figures.queries_per_s:,.0f}/s, p50 {figures.p50_ms:.1f}, p99 {p99} ms{fault}"


async def run_open(found: Findings, lanes: Lanes, rules: Rules, clock: Clock, say: Say) -> None:
    """Searches everybody's highest rate with a p99 of `P99_MS`, one trial each in turn."""
    for kind, name in OPEN:
        best = _best_rate(found.cells.values(), kind, name)
        if best:
            first = readable(best / 2)
            found.searches[kind, name] = Search(Goal(p99_ms=P99_MS), first, precision=_PRECISION)
            found.trials[kind, name] = []
        else:
            why = "no closed loop of its own to begin from"
            found.knees[kind, name] = Knee(kind=kind, contestant=name, failure=why)
    while going := [key for key in found.searches if key not in found.knees]:
        for key in going:
            kind, name = key
            why = await _trial(found, key, lanes[name, kind], rules, clock)
            if why is None:
                rate, missed = found.searches[key].found.trials[-1]
                say(f"{clock.passed} {kind} at {rate:g}/s: {name}: {missed or 'met'}")
                continue
            knee = knee_of(kind, name, found.searches[key], found.trials[key], why)
            found.knees[key] = knee
            say(f"{clock.passed} {kind}, highest rate: {name}: {found_in_words(knee)}")


async def _trial(
    found: Findings, key: tuple[Kind, str], lane: Lane, rules: Rules, clock: Clock
) -> str | None:
    """Makes the next trial; returns why there is none, "" where the search is over."""
    search = found.searches[key]
    rate = search.next_rate()
    if rate is None:
        return ""
    stage = Stage(rate=rate, warmup_s=rules.trial_warmup_s, duration_s=rules.trial_s)
    if not clock.allows(stage):
        return "the time was over"
    try:
        report = await lane.run(stage, clock.until_s)
    except ShoalError as failure:
        return failure.message
    search.learn(rate, report)
    found.trials[key].append(report)
    return None


def found_in_words(knee: Knee) -> str:
    """The rate, and what is to be known of it."""
    if knee.found is None:
        return knee.failure if knee.failure == CUT_SHORT else f"FAILED: {knee.failure}"
    if knee.found.calls_per_s is None:
        return f"none: {knee.found.why}"
    early = f" at least ({knee.found.why})" if knee.found.why else ""
    return f"{knee.found.calls_per_s:,.4g}/s{early}"


def _best_rate(cells: Iterable[Cell], kind: Kind, name: str) -> float:
    rates = [
        figures_of(cell.reports).queries_per_s
        for cell in cells
        if cell.load.kind == kind and cell.contestant == name and cell.reports
    ]
    return max(rates, default=0.0)
