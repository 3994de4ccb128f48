"""The comparison behind `make bench`: its turns, its figures, and what it does when things fail."""

import asyncio
import dataclasses
import json
import signal
import time
from collections import Counter
from functools import cache
from html.parser import HTMLParser
from itertools import count, groupby

import numpy as np
import pytest

from bench.serving.contest import Clock, Rules, compare, run_closed
from bench.serving.findings import Findings
from bench.serving.loads import FAISS, FIELD, LOADS, OPEN, RETRIEVE, SHOAL, TUNED, Load, turns
from bench.serving.page import page
from bench.serving.result import CUT_SHORT, Cell, Result, figures_of
from bench.serving.tables import markdown
from shoal.bench.drive import Call
from shoal.bench.plan import LoadPlan
from shoal.bench.report import summarize
from shoal.bench.schedule import Stage, due_times
from shoal.bench.tally import Tally
from shoal.bench.target import Reply
from shoal.errors import UnavailableError

RULES = Rules(n_rounds=2, warmup_s=0.0, duration_s=1.0, trial_warmup_s=0.0, trial_s=1.0)
KEYS = [(name, kind) for kind, names in FIELD.items() for name in names]


def report_of(stage, times_ms, *, code="OK", late_ms=0.0):
    """What a run shows whose calls take these times, one after the other or as they are due."""
    tally = Tally(stage, ())
    due_s = list(due_times(stage)) if stage.rate else [i * 1e-3 for i in range(len(times_ms))]
    for number, at_s in enumerate(due_s):
        done_s = at_s + times_ms[number % len(times_ms)] / 1e3
        tally.record(Call(number=number, due_s=at_s, sent_s=at_s + late_ms / 1e3, done_s=done_s,
                          reply=Reply(code=code)))  # fmt: skip
    return summarize(tally, LoadPlan(target="x:1", clients=1))


@cache
def answered(stage, per_s):
    """What a system shows that answers `per_s` calls in 10 ms each, and no rate above in time."""
    is_over = stage.rate is not None and stage.rate > per_s
    return report_of(stage, [500.0 if is_over else 10.0] * int(per_s * stage.duration_s))


class Scripted:
    """A lane: it breaks for good after some runs; in its first few the generator lags."""

    def __init__(self, per_s=100.0, *, breaks_after=1_000, n_lagging=0) -> None:
        self.per_s, self.left, self.n_lagging = per_s, breaks_after, n_lagging
        self.is_closed = False

    async def close(self):
        self.is_closed = True

    async def run(self, stage, until_s):
        if not self.left:
            raise UnavailableError("every call failed: 7 UNAVAILABLE")
        self.left -= 1
        report = answered(stage, self.per_s)
        if self.n_lagging:
            self.n_lagging -= 1
            own = dataclasses.replace(report.generator, fault="it was late")
            report = dataclasses.replace(report, generator=own)
        return report


class Interrupting(Scripted):
    """A lane in whose later runs somebody presses Ctrl-C; they don't end by themselves."""

    async def run(self, stage, until_s):
        if not self.left:
            signal.raise_signal(signal.SIGINT)
            await asyncio.Event().wait()
        return await super().run(stage, until_s)


def scripted(**special):
    return {key: special.get(f"{key[0]}/{key[1]}") or Scripted() for key in KEYS}


async def compared(lanes, *, failures=None, within_s=1e6) -> Result:
    clock = Clock(until_s=time.monotonic() + within_s)
    found, is_whole = await compare(lanes, failures or {}, RULES, clock, lambda _: None)
    assert all(lane.is_closed for lane in lanes.values())
    cells, knees = found.ended(CUT_SHORT)
    about = {SHOAL: "a cluster"}
    return Result(ground="books", about=about, cells=cells, knees=knees, is_whole=is_whole)


def cell_of(result, name, load):
    return next(c for c in result.cells if (c.contestant, c.load) == (name, load))


def test_contestants_take_turns_within_each_load():
    """Whatever disturbs the machine for a while meets all of them: nobody has two turns before
    everybody had one, and nobody is always first.
    """
    found = turns(LOADS, 8, seed=1)
    blocks = [[turn.contestant for turn in block] for _, block in groupby(found, lambda t: t.load)]
    assert len(blocks) == 8 * len(LOADS)
    assert {tuple(sorted(block)) for block in blocks} == {
        tuple(sorted(names)) for names in FIELD.values()
    }
    firsts = Counter(block[0] for block in blocks if len(block) == len(FIELD["text"]))
    assert set(firsts) == set(FIELD["text"])
    assert turns(LOADS, 8, seed=1) == found


def test_rounds_are_pooled_by_their_calls(rng):
    """The median of two rounds is that of all their calls, not the mean of two medians."""
    stage = Stage(clients=8, warmup_s=0.0, duration_s=4.0)
    rounds = [rng.lognormal(2, 0.5, 900), rng.lognormal(4, 0.5, 300)]
    found = figures_of([report_of(stage, times) for times in rounds])
    every = np.concatenate(rounds)
    assert found.n_calls == 1_200
    assert found.p50_ms == pytest.approx(np.quantile(every, 0.5), rel=5e-3)
    assert found.p99_ms == pytest.approx(np.quantile(every, 0.99), rel=2e-2)
    assert (found.least_per_s, found.most_per_s) == pytest.approx((75, 225))
    assert found.queries_per_s == pytest.approx(150)


def test_what_fails_fast_has_no_p99():
    """Fast failures of more than 1 % of the calls must not pass for a low latency."""
    stage = Stage(clients=8, warmup_s=0.0, duration_s=4.0)
    good = report_of(stage, [10.0] * 980)
    found = figures_of([good, report_of(stage, [0.1] * 20, code="RESOURCE_EXHAUSTED")])
    assert found.p99_ms is None
    assert found.errors == {"RESOURCE_EXHAUSTED": 20}
    few = report_of(stage, [0.1] * 5, code="RESOURCE_EXHAUSTED")
    assert figures_of([good, few]).p99_ms is not None


async def test_highest_rates_are_found_for_all():
    """Each its own, within the precision of a tenth, from half of its closed loops' best on."""
    result = await compared(scripted(**{f"{SHOAL}/text": Scripted(410.0)}))
    rates = {(knee.kind, knee.contestant): knee.found.calls_per_s for knee in result.knees}
    assert set(rates) == set(OPEN)
    assert 410 / 1.1 < rates["text", SHOAL] <= 410
    assert 100 / 1.1 < rates["vector", FAISS] <= 100
    assert result.faults == ()


async def test_a_contestant_that_fails_costs_its_own_cells_alone():
    """One didn't start, one dies on the way: both say why, in every form, and the rest is whole."""
    lanes = scripted(**{f"{TUNED}/text": Scripted(breaks_after=1)})
    result = await compared(lanes, failures={RETRIEVE: "didn't start: no such model"})
    whole = [cell for cell in result.cells if not cell.failure]
    assert {cell.contestant for cell in whole} == {SHOAL, FAISS, TUNED}
    assert all(len(cell.reports) == 2 for cell in whole)
    texts = [load for load in LOADS if load.kind == "text"]
    assert {cell_of(result, TUNED, load).failure for load in texts} == {
        "every call failed: 7 UNAVAILABLE"
    }
    for form in (markdown(result), page(result)):
        assert "every call failed: 7 UNAVAILABLE" in form
        assert "start: no such model" in form
    assert any("no such model" in fault for fault in result.faults)
    assert json.loads(json.dumps(result.to_dict()))["faults"] == list(result.faults)


async def test_a_round_that_measured_the_generator_is_run_again_once():
    """Noise passes and is told; what stays is a fault of the whole run."""
    load = Load(kind="text", clients=1)
    lanes = scripted(**{
        f"{SHOAL}/text": Scripted(n_lagging=1), f"{TUNED}/text": Scripted(n_lagging=1_000)
    })  # fmt: skip
    result = await compared(lanes)
    noisy, lagging = cell_of(result, SHOAL, load), cell_of(result, TUNED, load)
    assert (noisy.n_again, len(noisy.reports)) == (1, 2)
    assert not figures_of(noisy.reports).fault
    assert figures_of(lagging.reports).fault == "it was late"
    assert {fault for fault in result.faults if SHOAL in fault} == set()
    assert f"{load.label}, {TUNED}: it was late" in result.faults
    assert "(!)" in markdown(result)
    assert "Not to be trusted" in page(result)


async def test_nothing_begins_for_which_there_is_no_time():
    """The bound is on the whole: what didn't run says so, and nothing is made up for it."""
    result = await compared(scripted(), within_s=0.0)
    assert {cell.failure for cell in result.cells} == {"not run: the time was over"}
    assert all(knee.found is None and knee.failure for knee in result.knees)
    assert "failed" in markdown(result)


async def test_what_happened_before_the_time_was_over_stays(monkeypatch):
    """A cell that failed keeps its reason, and a round that couldn't be run again its figures."""
    n_allowed = count()
    monkeypatch.setattr(Clock, "allows", lambda *_: next(n_allowed) < 2)
    dead, lagging = Scripted(breaks_after=0), Scripted(n_lagging=1)
    load = Load(kind="text", clients=1)
    first, second = (turn.contestant for turn in turns(LOADS, 2, RULES.seed)[:2])
    assert turns(LOADS, 2, RULES.seed)[0].load == load
    told = []
    lanes = scripted(**{f"{first}/text": dead, f"{second}/text": lagging})
    findings = Findings()
    await run_closed(findings, lanes, {}, RULES, Clock(until_s=0.0), told.append)
    found = {cell.contestant: cell for cell in findings.cells.values() if cell.load == load}
    assert found[first].failure == "every call failed: 7 UNAVAILABLE"
    assert (len(found[second].reports), found[second].n_again) == (1, 0)
    assert found[second].reports[0].generator.fault == "it was late"
    assert sum(line.endswith("not run: the time was over") for line in told) == len(told) - 2


@pytest.fixture
def handled():
    """SIGINT as a terminal's programs have it: where tests run in a background it is ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("handled")
def test_ctrl_c_leaves_what_was_measured():
    """Minutes of measuring are not lost: what wasn't come to says so, and is nobody's fault."""
    lanes = scripted(**{f"{SHOAL}/vector": Interrupting(breaks_after=1)})
    result = asyncio.run(compared(lanes))
    assert not result.is_whole
    run = [cell for cell in result.cells if cell.reports]
    left = [cell for cell in result.cells if not cell.reports]
    assert {len(cell.reports) for cell in run} == {1}
    assert {cell.failure for cell in (*left, *result.knees)} == {CUT_SHORT}
    assert cell_of(result, SHOAL, Load(kind="vector", clients=1)) in run
    assert cell_of(result, SHOAL, Load(kind="vector", clients=8)) in left
    assert result.faults == ()
    n_left = f"{len(left) + len(OPEN)} of {len(result.cells) + len(OPEN)} cells were not run"
    for form in (markdown(result), page(result), json.dumps(result.to_dict())):
        assert n_left in form
        assert "failed: cut short" not in form


@pytest.mark.usefixtures("handled")
def test_ctrl_c_in_a_search_keeps_the_best_rate_so_far():
    """A rate that was met is a lower bound, however the search ended."""
    lanes = scripted(**{f"{SHOAL}/vector": Interrupting(breaks_after=2 * 3 + 1)})
    result = asyncio.run(compared(lanes))
    knees = {(knee.kind, knee.contestant): knee for knee in result.knees}
    assert not [cell for cell in result.cells if len(cell.reports) != 2]
    assert knees["vector", SHOAL].found.why == knees["text", SHOAL].found.why == CUT_SHORT
    assert knees["vector", SHOAL].found.calls_per_s == 50
    assert "≥ 50.0/s" in markdown(result)


async def test_a_whole_comparison_says_nothing_of_being_cut_short():
    """Nor does one that the time ended: it has its own words."""
    assert (await compared(scripted())).interruption == ""
    assert (await compared(scripted(), within_s=0.0)).interruption == ""


async def test_a_search_that_time_ends_is_a_lower_bound():
    """The best rate that was met so far is told as that, with the reason."""
    lanes = scripted(**{f"{SHOAL}/text": Scripted(breaks_after=2 * 3 + 1)})
    result = await compared(lanes)
    knee = next(k for k in result.knees if (k.kind, k.contestant) == ("text", SHOAL))
    assert knee.found is not None
    assert knee.found.calls_per_s == 50
    assert "UNAVAILABLE" in knee.found.why
    assert "≥ 50.0/s" in markdown(result)


class _Balanced(HTMLParser):
    """Fails where a tag isn't closed; keeps what a browser would load."""

    def __init__(self, text):
        super().__init__()
        self.open, self.links = [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.links += [value for name, value in attributes if name in {"src", "href"}]
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


async def test_the_page_needs_nothing_else():
    """One file, of charts and tables, with every contestant in it."""
    result = await compared(scripted())
    html = page(dataclasses.replace(result, ground="<script>alert(1)</script>"))
    assert _Balanced(html).links == []
    assert "<script>" not in html
    assert html.count("<svg") == 4
    assert [name for name in FIELD["text"] if name not in html] == []


def test_a_cell_without_reports_has_no_figures():
    """A hole in the table is no zero."""
    cell = Cell(load=LOADS[0], contestant=SHOAL, failure="gone")
    result = Result(ground="books", about={}, cells=(cell,), knees=())
    row = next(line for line in markdown(result).splitlines() if "failed: gone" in line)
    assert row.count("| - ") == 6
