"""A comparison as one HTML page that needs nothing else. Pure.

Rule: the colour of a contestant is the same in every chart; every mark carries its figures.
"""

from collections.abc import Sequence
from html import escape

from bench.serving.contest import P99_MS, found_in_words
from bench.serving.loads import FIELD, Kind
from bench.serving.result import Cell, Result, figures_of
from bench.serving.tables import (
    NAMES,
    NOTHING,
    full_row,
    legend,
    ms,
    p99,
    rate,
    short,
    summary_rows,
)
from shoal.bench.html.charts import Axis, Line, line_chart
from shoal.bench.html.scales import Linear, latency_scale, round_up
from shoal.bench.html.style import STYLE

_COLOURS = dict(zip(NAMES, (0, 4, 1, 7), strict=True))
_HEADER = '<header style="margin-bottom:18px">'
_ALERT = '<div class="alert" style="margin:0 0 18px">'
_TITLE = "Shoal beside what people run instead"
_SEARCH = (
    f"Open loop, p99 of {P99_MS:g} ms at most, failures counted as endless; a miss is tried twice, "
    "the answer must be met twice."
)
_EVERY = (
    "Rounds pooled by their histograms. Lag and busy are the load generator's own: its share of "
    "the latency, a fault past 5 % where calls are due, and the time in which it had work, a fault "
    "past 95 %."
)
_KNEE = "Open loop. Where the line turns up is what the system takes."


def page(result: Result) -> str:
    """The whole page."""
    started = str(result.circumstances.get("started", ""))
    summary = _table(["", *NAMES], summary_rows(result))
    body = [
        f"{_HEADER}<h1>{_TITLE}</h1><p>{escape(result.ground)} · {escape(started)}</p></header>",
        _alert("Cut short.", result.interruption),
        _alert("Not to be trusted.", "; ".join(result.faults)),
        _section("Throughput, and p50 / p99", legend(result), summary),
        '<div class="grid2">',
        *(_section(name, about, chart, style="") for name, about, chart in _charts(result)
          if chart),
        "</div>",
        _section("Every figure", _EVERY, _figures(result.cells)),
        _section("The search for the highest rate", _SEARCH, _trials(result)),
        _section("Who they are", "", _list(result.about)),
        _section("How it was measured", "", _list(
            {**result.circumstances, "notes": "; ".join(result.notes) or NOTHING})),
    ]  # fmt: skip
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{_TITLE}</title><style>{STYLE}</style></head><body><main>{''.join(body)}"
        "<footer>Written by make bench. One load generator for all; latency counts from the moment "
        "a call was due, and failures are in the figures.</footer></main></body></html>\n"
    )


def _charts(result: Result) -> list[tuple[str, str, str]]:
    drawn = []
    for kind, what in (("text", "Text"), ("vector", "Vectors")):
        drawn += [
            (f"{what}: p50 against throughput", "Closed loops of 1, 8 and 64 clients.",
             _closed(result.cells, kind)),
            (f"{what}: p99 against the rate offered", _KNEE, _open(result, kind)),
        ]  # fmt: skip
    return drawn


def _closed(cells: Sequence[Cell], kind: Kind) -> str:
    lines = []
    for name in FIELD[kind]:
        mine = [(cell, figures_of(cell.reports)) for cell in cells
                if (cell.contestant, cell.load.kind) == (name, kind) and cell.reports]  # fmt: skip
        points = [(found.queries_per_s, found.p50_ms) for _, found in mine]
        labels = [f"{cell.load.label}: {short(cell)}" for cell, _ in mine]
        if points:
            lines.append(Line(name=name, points=points, colour=_COLOURS[name], labels=labels))
    return _drawn(lines, "queries answered a second", f"{kind}, closed loops")


def _open(result: Result, kind: Kind) -> str:
    lines = []
    for knee in result.knees:
        if knee.kind != kind:
            continue
        best: dict[float, float] = {}
        for report in knee.reports:
            found = figures_of([report])
            at = report.rate or 0.0
            if found.p99_ms is not None:
                best[at] = min(found.p99_ms, best.get(at, found.p99_ms))
        points = sorted(best.items())
        labels = [f"{at:g}/s offered: p99 {ms(value)} ms" for at, value in points]
        if points:
            lines.append(Line(name=knee.contestant, points=points, labels=labels,
                              colour=_COLOURS[knee.contestant]))  # fmt: skip
    if lines:
        right = max(x for line in lines for x, _ in line.points)
        lines.append(Line(name=f"{P99_MS:g} ms", points=[(0.0, P99_MS), (right, P99_MS)],
                          colour=6, style="dashed"))  # fmt: skip
    return _drawn(lines, "calls offered a second", f"{kind}, open loop")


def _drawn(lines: Sequence[Line], across: str, about: str) -> str:
    if not lines:
        return ""
    values = [y for line in lines for _, y in line.points]
    right = max(x for line in lines for x, _ in line.points) or 1.0
    return line_chart(
        lines,
        Axis(scale=Linear(0.0, round_up(right)), name=across),
        Axis(scale=latency_scale(min(values), max(values)), name="milliseconds"),
        about=about,
    )


def _figures(cells: Sequence[Cell]) -> str:
    names = ["load", "", "queries/s", "of rounds", "p50 ms", "p99 ms", "recall", "failed",
             "lag, busy"]  # fmt: skip
    return _table(names, [[text.replace("**", "") for text in full_row(cell)] for cell in cells])


def _trials(result: Result) -> str:
    rows = []
    for knee in result.knees:
        rows.append([f"{knee.kind}: {knee.contestant}", "", found_in_words(knee), "", "", ""])
        for report in knee.reports:
            found = figures_of([report])
            rows.append(["", f"{report.rate:g}/s", f"{rate(found.queries_per_s)}/s answered",
                         ms(found.p50_ms), p99(found), found.fault])  # fmt: skip
    return _table(["", "offered", "", "p50 ms", "p99 ms", "generator"], rows)


def _table(names: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in names)
    body = "".join(
        "<tr>" + "".join(f"<td{_style(text)}>{escape(text)}</td>" for text in row) + "</tr>"
        for row in rows
    )
    return (
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'
        "</div>"
    )


def _style(text: str) -> str:
    is_bad = "failed" in text.lower() or "(!)" in text or text == "never" or "fault" in text
    return ' class="bad"' if is_bad else ""


def _list(values: object) -> str:
    assert isinstance(values, dict)
    rows = (
        f"<dt>{escape(str(name))}</dt><dd>{escape(_in_words(value))}</dd>"
        for name, value in values.items()
    )
    return f"<dl>{''.join(rows)}</dl>"


def _in_words(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{str(name).replace('_', ' ')} {said}" for name, said in value.items())
    return str(value)


def _section(name: str, about: str, content: str, *, style: str = "wide") -> str:
    told = f"<p>{escape(about)}</p>" if about else ""
    return f'<section class="{style}"><h2>{escape(name)}</h2>{told}{content}</section>'


def _alert(what: str, why: str) -> str:
    return f"{_ALERT}<strong>{what}</strong> {escape(why)}</div>" if why else ""
