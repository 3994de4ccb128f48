"""Runs a comparison: closed loops in turns, then each one's highest rate, within a time.

Rule: whatever fails is a cell that says so, and the rest goes on; no step begins for which there is
no time. A round in which the generator measured itself is run once more, and told.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from bench.serving.lane import Lane
from bench.serving.loads import FIELD, LOADS, OPEN, Kind, Turn, turns
from bench.serving.result import Cell, Knee, figures_of
from shoal.bench.max_rate import Goal, Search, readable
from shoal.bench.report import LoadReport
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


async def run_closed(
    lanes: Lanes, failures: Mapping[str, str], rules: Rules, clock: Clock, say: Say
) -> tuple[Cell, ...]:
    """Every contestant under every closed loop; of those in `failures` why not."""
    cells = {
        (load, name): Cell(load=load, contestant=name, failure=failures.get(name, ""))
        for load in LOADS
        for name in FIELD[load.kind]
    }
    for turn in turns(LOADS, rules.n_rounds, rules.seed):
        key = (turn.load, turn.contestant)
        if turn.contestant in failures:
            continue
        before = cells[key]
        cells[key] = await _turn(before, lanes, rules, clock)
        say(f"{clock.passed} {told(turn, cells[key], ran=cells[key] is not before)}")
    return tuple(cells.values())


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


async def run_open(
    lanes: Lanes,
    cells: tuple[Cell, ...],
    rules: Rules,
    clock: Clock,
    say: Say,
) -> tuple[Knee, ...]:
    """Searches everybody's highest rate with a p99 of `P99_MS`, one trial each in turn."""
    knees: dict[tuple[Kind, str], Knee] = {}
    searches: dict[tuple[Kind, str], Search] = {}
    for kind, name in OPEN:
        best = _best_rate(cells, kind, name)
        if best:
            first = readable(best / 2)
            searches[kind, name] = Search(Goal(p99_ms=P99_MS), first, precision=_PRECISION)
        else:
            why = "no closed loop of its own to begin from"
            knees[kind, name] = Knee(kind=kind, contestant=name, failure=why)
    trials: dict[tuple[Kind, str], list[LoadReport]] = {key: [] for key in searches}
    going = dict(searches)
    while going:
        for key, search in list(going.items()):
            why = await _trial(lanes[key[1], key[0]], search, trials[key], rules, clock)
            if why is None:
                rate, missed = search.found.trials[-1]
                say(f"{clock.passed} {key[0]} at {rate:g}/s: {key[1]}: {missed or 'met'}")
                continue
            del going[key]
            knees[key] = knee_of(key[0], key[1], search, trials[key], why)
            say(f"{clock.passed} {key[0]}, highest rate: {key[1]}: {found_in_words(knees[key])}")
    return tuple(knees[key] for key in OPEN)


async def _trial(
    lane: Lane, search: Search, trials: list[LoadReport], rules: Rules, clock: Clock
) -> str | None:
    """Makes the next trial; returns why there is none, "" where the search is over."""
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
    trials.append(report)
    return None


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


def found_in_words(knee: Knee) -> str:
    """The rate, and what is to be known of it."""
    if knee.found is None:
        return f"FAILED: {knee.failure}"
    if knee.found.calls_per_s is None:
        return f"none: {knee.found.why}"
    early = f" at least ({knee.found.why})" if knee.found.why else ""
    return f"{knee.found.calls_per_s:,.4g}/s{early}"


def _best_rate(cells: tuple[Cell, ...], kind: Kind, name: str) -> float:
    rates = [
        figures_of(cell.reports).queries_per_s
        for cell in cells
        if cell.load.kind == kind and cell.contestant == name and cell.reports
    ]
    return max(rates, default=0.0)
