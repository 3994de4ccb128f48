"""The page: its charts' arithmetic, that it tells the run, and that it needs nothing but itself."""

import dataclasses
import re
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.bench.drive import Call
from shoal.bench.html.charts import Axis, Bar, Line, bar_chart, line_chart
from shoal.bench.html.page import page, write_page
from shoal.bench.html.scales import Linear, Log, Nines, latency_scale, nice_step, round_up
from shoal.bench.plan import LoadPlan
from shoal.bench.record import MaxRate, RunRecord
from shoal.bench.report import summarize
from shoal.bench.schedule import Stage
from shoal.bench.tally import Tally
from shoal.bench.target import Reply, Served
from shoal.errors import StorageError

VALUES = st.floats(1e-3, 1e6)


def report(rate, *, ms=10.0, n_failed=0):
    stage = Stage(rate=rate, warmup_s=0.0, duration_s=2.0)
    tally = Tally(stage, ("queue", "search"))
    for i in range(int(2 * rate)):
        due_s, code = i / rate, "UNAVAILABLE" if i < n_failed else "OK"
        done_s = due_s + ms * (1 + i % 7) / 1e3
        reply = Reply(code=code, coverage=1.0, stages_ms=(1.0, 2.0))
        tally.record(Call(number=i, due_s=due_s, sent_s=due_s, done_s=done_s, reply=reply))
    return summarize(tally, LoadPlan(target="x:1", rate=rate))


def record(*reports, **more):
    return RunRecord(
        target="127.0.0.1:1", adapter="grpc", queries="<script>alert(1)</script>",
        served=Served(index="books", version=3), reports=reports,
        circumstances={"command": "shoal bench --rate 5", "seed": 42, "machine": {"cores": 2}},
        **more,
    )  # fmt: skip


class Page(HTMLParser):
    """What a browser would load, and the text that it shows; unbalanced tags fail."""

    VOID = frozenset(("meta",))

    def __init__(self, text):
        super().__init__()
        self.open, self.links, self.words, self.tags = [], [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.links += [value for name, value in attributes if name in {"src", "href"}]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self):
        return " ".join(self.words)


def test_the_page_needs_nothing_else():
    """No script, no font, no picture from anywhere; what users gave is text and no markup."""
    html = page(record(report(10.0), report(50.0)))
    read = Page(html)
    assert read.links == []
    assert "script" not in read.tags
    assert "<script>alert(1)</script>" in read.text
    assert not re.search(r"url\(|@import|https?://", html)
    assert "prefers-color-scheme:dark" in html


def test_the_page_tells_the_run():
    """Its loads, its command, its seed, its machine; the stepped chart where there are steps."""
    read = Page(page(record(report(10.0), report(50.0))))
    told = ("books", "version 3", "shoal bench --rate 5", "42", "cores 2", "50/s",
            "Latency against throughput", "Latency by percentile",
            "Where the time went")  # fmt: skip
    assert [words for words in told if words not in read.text] == []
    assert "Latency against throughput" not in Page(page(record(report(10.0)))).text


def test_failures_stand_on_the_page():
    """Codes in the table, a share on top, and no promise where too many failed."""
    read = Page(page(record(report(50.0, n_failed=5))))
    assert "5 UNAVAILABLE" in read.text
    assert "never" in read.text
    assert "calls failed" in read.text


def test_a_run_that_can_t_be_trusted_says_so_first():
    """Before any figure."""
    sound = report(10.0)
    lagging = dataclasses.replace(sound.generator, fault="it was late")
    read = Page(page(record(dataclasses.replace(sound, generator=lagging))))
    assert read.text.index("Not to be trusted") < read.text.index("queries answered")


@pytest.mark.parametrize("found", [50.0, None])
def test_the_answer_of_a_search_is_on_top(found):
    """And every trial below, met or not."""
    search = MaxRate(p99_ms=20.0, recall=0.9, calls_per_s=found, why="p99 30.0 ms",
                     trials=((50.0, ""), (100.0, "p99 30.0 ms")))  # fmt: skip
    read = Page(page(record(report(50.0), max_rate=search)))
    assert ("50.0 calls/s" if found else "No rate keeps") in read.text
    assert "100.0/s" in read.text


def test_a_run_without_a_call_is_a_page_too():
    """Nothing to draw is no failure."""
    empty = summarize(Tally(Stage(rate=1.0), ()), LoadPlan(target="x:1", rate=1.0))
    assert "queries answered" in Page(page(record(empty))).text
    assert Page(page(record())).text


def test_a_page_that_can_t_be_written_is_one_error(tmp_path):
    """With the file's name."""
    with pytest.raises(StorageError, match="missing"):
        write_page(tmp_path / "missing" / "x.html", record())


@given(st.lists(st.tuples(VALUES, VALUES), min_size=1, max_size=20))
def test_every_point_is_inside_its_chart(points):
    """Whatever the figures, no mark lies outside the frame, and no number is NaN."""
    ys = [y for _, y in points]
    svg = line_chart(
        [Line(name="a", points=points), Line(name="b", points=points, style="dots")],
        Axis(scale=Linear(0.0, round_up(max(x for x, _ in points))), name="x"),
        Axis(scale=latency_scale(min(ys), max(ys)), name="y"),
        about="points",
    )
    assert "nan" not in svg
    for x, y in re.findall(r'cx="([\d.]+)" cy="([\d.]+)"', svg):
        assert 0 <= float(x) <= 600
        assert 0 <= float(y) <= 320


@given(VALUES)
def test_axes_end_at_round_numbers_not_far_above(value):
    """An axis that ended far above its values would hide them."""
    assert value <= round_up(value) * (1 + 1e-9)
    assert round_up(value) <= 1.5 * value
    assert nice_step(value) >= value * (1 - 1e-9)


@given(VALUES, VALUES)
def test_a_latency_axis_shows_both_ends(one, other):
    """Linear where that shows the smallest, logarithmic where it wouldn't; both ends inside."""
    low, high = sorted((one, other))
    scale = latency_scale(low, high)
    assert 0 <= scale.place(low) <= scale.place(high) <= 1 + 1e-9
    assert isinstance(scale, Log) == (high / low >= 25)
    assert len(scale.ticks()) >= 2


def test_each_nine_is_as_wide():
    """From p90 to p99 as far as from p99 to p99.9: the tail is where the eye goes."""
    scale = Nines(0.999)
    assert [scale.place(share) for share in (0, 0.9, 0.99, 0.999)] == pytest.approx(
        [0, 1 / 3, 2 / 3, 1]
    )
    assert [label for _, label in scale.ticks()] == ["min", "p50", "p90", "p99", "p99.9"]


def test_bars_are_as_long_as_their_parts():
    """Twice the milliseconds, twice the width; what is 0 is neither drawn nor in the legend."""
    svg = bar_chart(
        [Bar(name="a", parts=[("x", 1.0, 0), ("y", 2.0, 1), ("z", 0.0, 2)])], "ms", about="bars"
    )
    widths = [float(width) for width in re.findall(r'<rect[^>]* width="([\d.]+)"', svg)]
    assert widths[1] == pytest.approx(2 * widths[0], abs=0.2)
    assert len(widths) == 2
    assert "z" not in re.findall(r"</i>(\w)</li>", svg)
