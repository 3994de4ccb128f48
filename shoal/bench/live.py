"""What is shown while a run goes on: figures that move on a terminal, lines elsewhere.

Rule: it shows what the workers tell, half a second late, and decides nothing; the last seconds'
percentiles are merged from the workers' counts like everything else.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from shoal.bench.load import Tick
from shoal.bench.report import LoadReport
from shoal.bench.schedule import Stage
from shoal.bench.tally import Recall, Series

_WINDOW_S = 2.0
_LINE_EVERY_S = 5.0
_TICK_S = 0.5
_BARS = "▁▂▃▄▅▆▇█"
_N_BARS = 40


@dataclass(slots=True)
class Now:
    """The last two seconds, and the stage so far. Times are given; it knows no clock."""

    stage: Stage | None = None
    number: int = 0
    n_stages: int | None = None
    begun_s: float = 0.0
    n_answered: int = 0
    n_degraded: int = 0
    n_failed: int = 0
    recall: Recall = field(default_factory=Recall)
    _recent: deque[tuple[float, Tick]] = field(default_factory=deque)
    rates: deque[float] = field(default_factory=lambda: deque(maxlen=_N_BARS))

    def begin(self, stage: Stage, number: int, n_stages: int | None, now_s: float) -> None:
        """A stage begins."""
        self.stage, self.number, self.n_stages, self.begun_s = stage, number, n_stages, now_s
        self.n_answered = self.n_degraded = self.n_failed = 0
        self.recall = Recall()
        self._recent.clear()
        self.rates.clear()

    def tick(self, tick: Tick, now_s: float) -> None:
        """A worker's half second."""
        self._recent.append((now_s, tick))
        while self._recent and self._recent[0][0] <= now_s - _WINDOW_S:
            self._recent.popleft()
        self.n_answered += tick.slice.n_answered
        self.n_degraded += tick.slice.n_degraded
        self.n_failed += tick.slice.n_failed
        self.recall.n += tick.recall.n
        self.recall.total += tick.recall.total
        if tick.worker == 0:
            self.rates.append(self.rate(now_s))

    def rate(self, now_s: float) -> float:
        """Answers a second, lately."""
        n = sum(tick.slice.n_answered for _, tick in self._recent)
        return n / max(_TICK_S, min(_WINDOW_S, now_s - self.begun_s))

    def quantiles_ms(self) -> tuple[float, float]:
        """p50 and p99 of the calls that ended lately, failed ones too."""
        merged = Series(2)
        for _, tick in self._recent:
            merged.add(tick.slice.latency)
        return merged.quantile_ms(0.5), merged.quantile_ms(0.99)

    def facts(self, now_s: float) -> list[tuple[str, str]]:
        """What to show, as name and value."""
        p50, p99 = self.quantiles_ms()
        shown = [
            ("rate", f"{self.rate(now_s):,.0f}/s"),
            ("p50", f"{p50:,.1f} ms"),
            ("p99", f"{p99:,.1f} ms"),
            ("errors", f"{self.n_failed:,}"),
        ]
        if self.n_degraded:
            shown.append(("shards missing", f"{self.n_degraded:,}"))
        if self.recall.n:
            shown.append(("recall", f"{self.recall.total / self.recall.n:.3f}"))
        return shown

    @property
    def title(self) -> str:
        """Which stage this is."""
        assert self.stage is not None
        if not self.number:
            return f"looking for a rate to begin with: {self.stage.label}"
        of = f" of {self.n_stages}" if self.n_stages else ""
        place = "" if self.n_stages == 1 else f"{self.number}{of}: "
        return place + self.stage.label


def bars(values: Iterator[float] | deque[float]) -> str:
    """A line of bars as high as the values."""
    shown = list(values)
    top = max(shown, default=0.0)
    if not top:
        return ""
    return "".join(_BARS[min(7, int(8 * value / top))] for value in shown)


class Lines:
    """A line every five seconds and one a stage, for logs. `write` takes a line."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write
        self._now = Now()
        self._shown_s = 0.0

    def say(self, what: str) -> None:
        """Something else is done first."""
        self._write(what)

    def begin(self, stage: Stage, number: int, n_stages: int | None) -> None:
        """A stage begins."""
        now_s = time.monotonic()
        self._now.begin(stage, number, n_stages, now_s)
        self._shown_s = now_s
        self._write(f"{self._now.title}, {stage.warmup_s:g} s and {stage.duration_s:g} s measured")

    def tick(self, tick: Tick) -> None:
        """Half a second of one worker's."""
        now_s = time.monotonic()
        self._now.tick(tick, now_s)
        if now_s - self._shown_s >= _LINE_EVERY_S:
            self._shown_s = now_s
            facts = ", ".join(f"{name} {value}" for name, value in self._now.facts(now_s))
            self._write(f"  {now_s - self._now.begun_s:.0f} s: {facts}")

    def end(self, report: LoadReport, verdict: str) -> None:
        """A stage is over."""
        if verdict:
            self._write(f"  {report.label}: {verdict}")


class Screen:
    """A panel that moves, on a terminal's stderr."""

    def __init__(self, live: Any, *, ended: Callable[[str], None]) -> None:
        self._live = live
        self._ended = ended
        self._now = Now()

    def say(self, what: str) -> None:
        """Something else is done first."""
        self._live.update(what)

    def begin(self, stage: Stage, number: int, n_stages: int | None) -> None:
        """A stage begins."""
        self._now.begin(stage, number, n_stages, time.monotonic())
        self._draw()

    def tick(self, tick: Tick) -> None:
        """Half a second of one worker's."""
        self._now.tick(tick, time.monotonic())
        self._draw()

    def end(self, report: LoadReport, verdict: str) -> None:
        """A stage is over: it leaves one line behind."""
        p50, p99 = report.latency_ms.p50, report.latency_ms.p99
        self._ended(
            f"{report.label:>16}  {report.queries_per_s:>9,.0f} q/s  p50 {p50:>8,.1f} ms  "
            f"p99 {p99:>8,.1f} ms  {verdict}".rstrip()
        )

    def _draw(self) -> None:
        from rich.console import Group  # noqa: PLC0415 -- a terminal's alone
        from rich.panel import Panel  # noqa: PLC0415
        from rich.progress_bar import ProgressBar  # noqa: PLC0415
        from rich.table import Table  # noqa: PLC0415
        from rich.text import Text  # noqa: PLC0415

        now_s, stage = time.monotonic(), self._now.stage
        assert stage is not None
        ran_s = now_s - self._now.begun_s
        facts = self._now.facts(now_s)
        table = Table.grid(expand=True)
        for _ in facts:
            table.add_column(justify="left")
        table.add_row(*(Text(name, style="dim") for name, _ in facts))
        table.add_row(*(Text(value, style=_style(name, value)) for name, value in facts))
        phase = "warming up" if ran_s < stage.warmup_s else "measuring"
        bar = ProgressBar(total=stage.total_s, completed=min(ran_s, stage.total_s))
        title = f"{self._now.title} · {phase} {ran_s:.0f} of {stage.total_s:.0f} s"
        graph = Text(bars(self._now.rates), style="cyan")
        self._live.update(Panel(Group(table, graph, bar), title=title, title_align="left"))


@contextmanager
def watching(write: Callable[[str], None], *, is_terminal: bool) -> Iterator[Lines | Screen]:
    """Who watches a run: a screen where somebody looks, lines elsewhere."""
    if not is_terminal:
        yield Lines(write)
        return
    from rich.console import Console  # noqa: PLC0415 -- an optional extra
    from rich.live import Live  # noqa: PLC0415

    console = Console(stderr=True)
    with Live(console=console, refresh_per_second=4, transient=True) as live:
        yield Screen(live, ended=console.print)


def _style(name: str, value: str) -> str:
    alarming = name in {"errors", "shards missing"} and value != "0"
    return "bold red" if alarming else "bold"
