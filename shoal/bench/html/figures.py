"""A run's figures as charts: which lines, on which axes. Pure."""

from collections.abc import Sequence

from shoal.bench.html.charts import N_COLOURS, Axis, Bar, Line, bar_chart, line_chart
from shoal.bench.html.scales import Linear, Nines, latency_scale, plain, round_up
from shoal.bench.report import LoadReport

_MOST_STAGES = N_COLOURS
_OUTSIDE, _LATE, _FAILED = 7, 4, 4
_STAGE_COLOURS = {"queue": 6, "encode": 3, "search": 0, "merge": 2, "fetch": 5}


def percentiles(reports: Sequence[LoadReport]) -> str:
    """Latency by percentile, a line a stage of the run."""
    shown = [report for report in _spread(reports) if report.spectrum]
    if not shown:
        return ""
    values = [ms for report in shown for _, ms in report.spectrum]
    highest = max(share for report in shown for share, _ in report.spectrum)
    lines = [
        Line(name=report.label, points=report.spectrum, colour=number)
        for number, report in enumerate(shown)
    ]
    return line_chart(
        lines,
        Axis(scale=Nines(max(0.9, highest)), name="percentile of all calls, each nine as wide"),
        Axis(scale=latency_scale(min(values), max(values)), name="milliseconds"),
        about="latency by percentile",
    )


def over_time(reports: Sequence[LoadReport]) -> str:
    """p50, p99 and the maximum over the measured time; stages one after the other."""
    p50, p99, most, failed = [], [], [], []
    rules, begin_s = [], 0.0
    for report in reports:
        rules.append(begin_s)
        for moment in report.timeline:
            at_s = begin_s + moment.at_s
            if moment.n:
                p50.append((at_s, moment.p50))
                p99.append((at_s, moment.p99))
                most.append((at_s, moment.max))
            if moment.n_failed:
                failed.append((at_s, moment.max))
        begin_s += report.duration_s
    if not p50:
        return ""
    lines = [
        Line(name="maximum", points=most, colour=7, style="dashed"),
        Line(name="p99", points=p99, colour=1),
        Line(name="p50", points=p50, colour=0),
    ]
    if failed:
        lines.append(Line(name="calls failed", points=failed, colour=_FAILED, style="dots"))
    return line_chart(
        lines,
        Axis(scale=Linear(0.0, begin_s, 7), name="seconds measured"),
        Axis(scale=latency_scale(min(y for _, y in p50), max(y for _, y in most)),
             name="milliseconds"),
        about="latency over time",
        rules=rules[1:],
    )  # fmt: skip


def rate_over_time(reports: Sequence[LoadReport]) -> str:
    """Answers a second over the measured time, and what was offered in an open loop."""
    answered, offered, begin_s = [], [], 0.0
    for report in reports:
        answered += [(begin_s + m.at_s, m.answers_per_s) for m in report.timeline
                     if m.at_s < report.duration_s]  # fmt: skip
        if report.rate is not None:
            last = report.rate if report.to_rate is None else report.to_rate
            offered += [(begin_s, report.rate), (begin_s + report.duration_s, last)]
        begin_s += report.duration_s
    if not answered:
        return ""
    lines = [Line(name="answered", points=answered, colour=2)]
    if offered:
        lines.insert(0, Line(name="offered", points=offered, colour=7, style="dashed"))
    top = max(y for line in lines for _, y in line.points)
    return line_chart(
        lines,
        Axis(scale=Linear(0.0, begin_s, 7), name="seconds measured"),
        Axis(scale=Linear(0.0, round_up(top) if top else 1.0), name="calls a second"),
        about="answers a second over time",
    )


def throughput(reports: Sequence[LoadReport]) -> str:
    """Latency against throughput, a point a stage; nothing for a single one."""
    points = [report for report in reports if report.latency_ms.n]
    if len(points) < 2:
        return ""
    points = sorted(points, key=lambda report: report.rate or report.clients or 0)
    labels = [f"{report.label}: {plain(report.queries_per_s)} queries/s" for report in points]
    lines = [
        Line(name=name, colour=colour, labels=labels,
             points=[(r.queries_per_s, getattr(r.latency_ms, name)) for r in points])
        for name, colour in (("p99", 1), ("p90", 6), ("p50", 0))
    ]  # fmt: skip
    values = [y for line in lines for _, y in line.points]
    return line_chart(
        lines,
        Axis(scale=Linear(0.0, round_up(max(r.queries_per_s for r in points) or 1.0)),
             name="queries answered a second"),
        Axis(scale=latency_scale(min(values), max(values)), name="milliseconds"),
        about="latency against throughput",
    )  # fmt: skip


def breakdown(reports: Sequence[LoadReport]) -> str:
    """Where an answer's time went on average; nothing where the target doesn't say."""
    bars = []
    for report in _spread(reports):
        if not report.stages_ms:
            continue
        stages = [
            (name, latency.mean, _STAGE_COLOURS.get(name, number % N_COLOURS))
            for number, (name, latency) in enumerate(report.stages_ms.items())
        ]
        parts = [
            ("late in the generator", report.late_ms.mean, _LATE),
            ("on the way, and in the client", report.outside_ms, _OUTSIDE),
            *stages,
        ]
        bars.append(Bar(name=report.label, parts=parts))
    return bar_chart(bars, "ms", about="where the time went") if bars else ""


def _spread(reports: Sequence[LoadReport]) -> list[LoadReport]:
    """As many as there are colours, evenly, the first and the last among them."""
    if len(reports) <= _MOST_STAGES:
        return list(reports)
    last = len(reports) - 1
    return [reports[round(i * last / (_MOST_STAGES - 1))] for i in range(_MOST_STAGES)]
