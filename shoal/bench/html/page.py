"""A run's record as one HTML file that needs nothing else: no script, no font, no network. Pure,
but for `write_page`.
"""

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from shoal.bench.html import figures
from shoal.bench.html.style import STYLE
from shoal.bench.record import MaxRate, RunRecord
from shoal.bench.report import LoadReport
from shoal.errors import StorageError

_NEVER = "never"


def write_page(path: Path, record: RunRecord) -> None:
    """Writes the page.

    Raises:
        StorageError: the file can't be written.
    """
    try:
        path.write_text(page(record), encoding="utf-8")
    except OSError as failure:
        raise StorageError(f"{path}: can't be written: {failure.strerror}") from failure


def page(record: RunRecord) -> str:
    """The whole page."""
    index = f"index {record.served.index}, version {record.served.version}"
    served = index if record.served.index else record.adapter
    title = f"Load on {record.target}"
    about = f"{served} · {record.queries} · {record.circumstances.get('started', '')}"
    body = [
        f"<header><h1>{escape(title)}</h1><p>{escape(about)}</p></header>",
        _alert(record.fault),
        _answer(record.max_rate),
        _cards(headline(record.reports, record.max_rate)),
        _charts(record.reports),
        _wide("Every load", "Latency counts from the moment a call was due; the promised p99 takes "
              "whatever wasn't a full answer as endless.", _stages_table(record.reports)),
        *(_wide(f"Calls at {report.label}", "Every call is in one of these.", _parts_table(report))
          for report in _told_in_full(record)),
        _trials(record.max_rate),
        _wide("How it was measured", "", _circumstances(record)),
    ]  # fmt: skip
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body><main>"
        + "".join(body)
        + "<footer>Written by shoal bench. Calls are sent when they are due, whatever the answers "
        "do; failures are in the figures.</footer></main></body></html>\n"
    )


def headline(reports: Sequence[LoadReport], found: MaxRate | None) -> LoadReport | None:
    """The stage whose figures stand on top: the answer's, else the one that answered most."""
    if found is not None and found.calls_per_s is not None:
        return next((r for r in reports if r.rate == found.calls_per_s), None)
    return max(reports, key=lambda report: report.queries_per_s, default=None)


def _told_in_full(record: RunRecord) -> list[LoadReport]:
    shown = headline(record.reports, record.max_rate)
    return [] if shown is None else [shown]


def _alert(fault: str) -> str:
    if not fault:
        return ""
    return f'<div class="alert"><strong>Not to be trusted.</strong> {escape(fault)}</div>'


def _answer(found: MaxRate | None) -> str:
    if found is None:
        return ""
    goal = f"99 % of all calls fully answered within {found.p99_ms:g} ms"
    if found.recall is not None:
        goal += f" and a recall of {found.recall:g}"
    if found.calls_per_s is None:
        return f'<div class="answer">No rate keeps {goal}: {escape(found.why)}.</div>'
    early = f" The search ended early: {escape(found.why)}." if found.why else ""
    return (
        f'<div class="answer"><strong>{found.calls_per_s:,.1f} calls/s</strong> is the highest '
        f"rate that keeps {goal}.{early}</div>"
    )


def _cards(report: LoadReport | None) -> str:
    if report is None:
        return ""
    latency, promised = report.latency_ms, report.promised_ms["p99"]
    cards = [
        (f"{report.queries_per_s:,.0f} <small>/s</small>", f"queries answered, {report.label}",
         False),
        (_ms(latency.p50), "p50 of all calls", False),
        (_ms(latency.p99), "p99 of all calls", False),
        (_NEVER if promised is None else _ms(promised), "p99 that can be promised",
         promised is None),
        (f"{100 * report.failed_share:.3g} <small>%</small>", "of the calls failed",
         report.failed_share > 0),
    ]  # fmt: skip
    if report.recall is not None:
        half = (report.recall.high - report.recall.low) / 2
        told = f"recall@{report.recall.k} ± {half:.3f}, {report.recall.n:,} questions"
        cards.append((f"{report.recall.mean:.3f}", told, False))
    if report.coverage_mean is not None:
        searched = f"{100 * report.coverage_mean:.4g} <small>%</small>"
        cards.append((searched, "of the corpus searched", report.coverage_mean < 1))
    return '<div class="cards">' + "".join(
        f'<div class="card{" bad" * bad}"><b>{value}</b><span>{escape(name)}</span></div>'
        for value, name, bad in cards
    ) + "</div>"  # fmt: skip


def _charts(reports: Sequence[LoadReport]) -> str:
    drawn = [
        ("Latency against throughput", "Where the line turns up is what the system takes.",
         figures.throughput(reports)),
        ("Latency by percentile", "Of all calls, from the moment each was due.",
         figures.percentiles(reports)),
        ("Latency over time", "By the moment a call was due; stages one after the other.",
         figures.over_time(reports)),
        ("Rate over time", "Answers by the moment they came.", figures.rate_over_time(reports)),
        ("Where the time went", "Means over the answers; the server's own times from its replies.",
         figures.breakdown(reports)),
    ]  # fmt: skip
    sections = [
        f"<section><h2>{name}</h2><p>{about}</p>{chart}</section>"
        for name, about, chart in drawn
        if chart
    ]
    return f'<div class="grid2">{"".join(sections)}</div>'


def _stages_table(reports: Sequence[LoadReport]) -> str:
    names = ("load", "calls", "queries/s", "p50 ms", "p90 ms", "p99 ms", "p99.9 ms", "max ms",
             "promised p99", "failed", "shards missing", "recall", "coverage",
             "generator's lag")  # fmt: skip
    rows = []
    for report in reports:
        latency, promised = report.latency_ms, report.promised_ms["p99"]
        n_failed = sum(report.errors.values())
        rows.append([
            (report.label, ""), (f"{report.n_calls:,}", ""), (f"{report.queries_per_s:,.1f}", ""),
            *((f"{value:,.2f}", "") for value in
              (latency.p50, latency.p90, latency.p99, latency.p999, latency.max)),
            (_NEVER, "bad") if promised is None else (f"{promised:,.2f}", ""),
            (f"{n_failed:,}", "bad" if n_failed else ""),
            (f"{report.degraded_ms.n:,}", "bad" if report.degraded_ms.n else ""),
            ("-" if report.recall is None else f"{report.recall.mean:.3f}", ""),
            ("-" if report.coverage_mean is None else f"{report.coverage_mean:.4f}", ""),
            (f"{report.generator.lag_share:.1%}", "bad" if report.generator.fault else ""),
        ])  # fmt: skip
    failures = "; ".join(f"{r.label}: {_codes(r)}" for r in reports if r.errors)
    told = f'<p class="codes">Failed, {escape(failures)}.</p>' if failures else ""
    return _table(names, rows) + told


def _parts_table(report: LoadReport) -> str:
    parts = {
        "all calls": report.latency_ms,
        "full answers": report.ok_ms,
        "shards missing": report.degraded_ms,
        "failed": report.error_ms,
        "timed out": report.timeout_ms,
        "sent late by": report.late_ms,
        **{f"server: {name}": latency for name, latency in report.stages_ms.items()},
    }
    names = ("", "calls", "mean ms", "p50", "p90", "p95", "p99", "p99.9", "max")
    rows = [
        [(name, ""), (f"{part.n:,}", ""), *((f"{value:,.2f}", "") for value in (
            part.mean, part.p50, part.p90, part.p95, part.p99, part.p999, part.max))]
        for name, part in parts.items()
        if part.n
    ]  # fmt: skip
    return _table(names, rows)


def _trials(found: MaxRate | None) -> str:
    if found is None:
        return ""
    rows = [
        [(f"{rate:,.1f}/s", ""), (missed or "met", "bad" if missed else "good")]
        for rate, missed in found.trials
    ]
    return _wide("The search", "In the order in which rates were tried; a miss is tried twice, and "
                 "the answer must be met twice.", _table(("rate", "goal"), rows))  # fmt: skip


def _circumstances(record: RunRecord) -> str:
    rows = [("command", f"<code>{escape(str(record.circumstances.get('command', '')))}</code>")]
    rows += [
        (name, escape(_in_words(value)))
        for name, value in record.circumstances.items()
        if name != "command"
    ]
    rows.append(("queries", escape(record.queries)))
    rows += [
        (f"generator, {report.label}", escape(
            f"{report.generator.workers} workers of {report.connections} connections, "
            f"{report.generator.lag_ms:.2f} ms late on average, busy {report.generator.busy:.0%}"))
        for report in record.reports
    ]  # fmt: skip
    rows += [("note", escape(note)) for note in record.notes]
    return "<dl>" + "".join(f"<dt>{escape(n)}</dt><dd>{v}</dd>" for n, v in rows) + "</dl>"


def _table(names: Sequence[str], rows: Sequence[Sequence[tuple[str, str]]]) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in names)
    body = "".join(
        "<tr>" + "".join(
            f'<td class="{style}">{escape(text)}</td>' if style else f"<td>{escape(text)}</td>"
            for text, style in row
        ) + "</tr>"
        for row in rows
    )  # fmt: skip
    return (
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'
        "</div>"
    )


def _wide(name: str, about: str, content: str) -> str:
    told = f"<p>{escape(about)}</p>" if about else ""
    return f'<section class="wide"><h2>{escape(name)}</h2>{told}{content}</section>'


def _codes(report: LoadReport) -> str:
    return ", ".join(f"{n:,} {code}" for code, n in sorted(report.errors.items()))


def _in_words(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name.replace('_', ' ')} {said}" for name, said in value.items())
    return str(value)


def _ms(value: float) -> str:
    shown = f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
    return f"{shown} <small>ms</small>"
