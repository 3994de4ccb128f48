"""What is shown while a run goes on: figures of the last two seconds, and of the stage so far."""

import io
from types import SimpleNamespace

from rich.console import Console

from shoal.bench.live import Lines, Now, Screen, bars
from shoal.bench.load import Tick
from shoal.bench.schedule import Stage
from shoal.bench.tally import Recall, Series, Slice

STAGE = Stage(rate=10.0, warmup_s=1.0, duration_s=5.0)


def tick(n, *, ms=10.0, worker=0, n_failed=0, recall=None):
    latency = Series(2)
    for _ in range(n + n_failed):
        latency.record(ms / 1e3)
    return Tick(
        worker=worker, slice=Slice(latency, n_failed, 0, n), recall=recall or Recall()
    )  # fmt: skip


def test_the_rate_is_of_the_last_two_seconds():
    """Two workers' ticks add up; what is older than two seconds counts no more."""
    now = Now()
    now.begin(STAGE, 1, 1, now_s=0.0)
    for at_s in (0.5, 1.0, 1.5, 2.0, 2.5, 3.0):
        for worker in (0, 1):
            now.tick(tick(25, worker=worker), at_s)
    assert now.rate(3.0) == 100.0
    assert now.n_answered == 300
    assert dict(now.facts(3.0))["rate"] == "100/s"


def test_percentiles_are_of_all_workers_together():
    """One fast and one slow worker: the p50 is the fast one's, the p99 the slow one's."""
    now = Now()
    now.begin(STAGE, 1, 1, now_s=0.0)
    now.tick(tick(90, ms=10), 0.5)
    now.tick(tick(10, ms=500, worker=1), 0.5)
    p50, p99 = now.quantiles_ms()
    assert 9.5 < p50 < 10.5
    assert 490 < p99 < 510


def test_errors_and_recall_are_of_the_stage():
    """They are too few for two seconds; a new stage begins at nothing."""
    now = Now()
    now.begin(STAGE, 1, 2, now_s=0.0)
    now.tick(tick(5, n_failed=2, recall=Recall(2, 1.5)), 0.5)
    now.tick(tick(5, n_failed=1, recall=Recall(2, 2.0)), 4.0)
    facts = dict(now.facts(4.0))
    assert facts["errors"] == "3"
    assert facts["recall"] == "0.875"
    assert now.title == "1 of 2: 10/s"
    now.begin(STAGE, 2, 2, now_s=5.0)
    assert dict(now.facts(5.0)) == {"rate": "0/s", "p50": "0.0 ms", "p99": "0.0 ms", "errors": "0"}


def test_a_log_gets_a_line_a_stage():
    """Which stage it is, and what became of it where there is a goal."""
    lines = []
    watcher = Lines(lines.append)
    watcher.begin(STAGE, 2, 3)
    watcher.tick(tick(5))
    assert lines == ["2 of 3: 10/s, 1 s and 5 s measured"]


def test_a_terminal_sees_rate_percentiles_errors_and_recall():
    """Drawn as rich draws them, in the width that a terminal has."""
    console = Console(file=io.StringIO(), width=80)
    shown = []
    ended = []
    screen = Screen(SimpleNamespace(update=shown.append), ended=ended.append)
    screen.begin(STAGE, 2, 3)
    screen.tick(tick(95, ms=20.0, n_failed=5, recall=Recall(4, 3.0)))
    console.print(shown[-1])
    panel = console.file.getvalue()
    for told in ("2 of 3: 10/s", "warming up", "rate", "p50", "20.0 ms", "p99", "errors", "5",
                 "recall", "0.750"):  # fmt: skip
        assert told in panel
    assert ended == []


def test_bars_are_as_high_as_their_values():
    """The highest is full, and nothing is drawn of nothing."""
    assert bars(iter([0.0, 50.0, 100.0])) == "▁▅█"
    assert bars(iter([])) == bars(iter([0.0])) == ""
