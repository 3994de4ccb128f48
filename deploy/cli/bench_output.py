"""What `shoal bench` writes for people: one table a stage, one over several, a comparison."""

from collections.abc import Sequence

from deploy.cli.output import counted, write, write_table
from shoal.bench.compare import Ratio
from shoal.bench.record import MaxRate, RunRecord
from shoal.bench.report import LoadReport
from shoal.bench.self_check import Finding


def write_record(record: RunRecord) -> None:
    """The run: its stage in full, or a line a stage where there are several."""
    index = f"index {record.served.index!r} version {record.served.version}"
    write(f"{index if record.served.index else record.adapter} at {record.target}")
    if len(record.reports) == 1:
        write_report(record.reports[0])
    else:
        write_stages(record.reports)
    for line in record.notes:
        write(f"note: {line}")
    if record.max_rate is not None:
        write(told(record.max_rate))


def write_report(report: LoadReport) -> None:
    """One stage: its series of calls, its rate, and what went wrong."""
    parts = {
        "all, from due time": report.latency_ms,
        "full answers": report.ok_ms,
        "shards missing": report.degraded_ms,
        "failed": report.error_ms,
        "timed out": report.timeout_ms,
        "sent late by": report.late_ms,
        **{f"server: {name}": latency for name, latency in report.stages_ms.items()},
    }
    write_table(
        ("ms", "calls", "mean", "p50", "p90", "p95", "p99", "p99.9", "max"),
        [
            (label, part.n, *(round(value, 2) for value in (
                part.mean, part.p50, part.p90, part.p95, part.p99, part.p999, part.max)))
            for label, part in parts.items()
            if part.n or not label.startswith("server")
        ],
    )  # fmt: skip
    write(
        f"{report.calls_per_s:,.1f} calls/s, {report.queries_per_s:,.1f} queries/s answered over "
        f"{report.duration_s:g} s"
    )
    if report.recall is not None:
        found = report.recall
        write(
            f"recall@{found.k} {found.mean:.4f} ({found.low:.4f} to {found.high:.4f}), "
            f"{counted(found.n, 'question')} searched exactly as well"
        )
    if report.coverage_mean is not None and report.coverage_min != 1.0:
        write(f"coverage {report.coverage_mean:.4f}, at least {report.coverage_min:.4f}")
    for code, n_calls in sorted(report.errors.items()):
        write(f"{counted(n_calls, 'call')} failed: {code}")
    own = report.generator
    write(
        f"generator: {counted(own.workers, 'worker')}, {own.lag_ms:.2f} ms late on average "
        f"({own.lag_share:.1%} of the latency), busy {own.busy:.0%}"
    )


def write_stages(reports: Sequence[LoadReport]) -> None:
    """A line a stage."""
    write_table(
        ("load", "calls", "queries/s", "p50 ms", "p90 ms", "p99 ms", "promised p99", "failed",
         "shards missing", "recall", "lag"),
        [
            (
                report.label, report.n_calls, round(report.queries_per_s, 1),
                round(report.latency_ms.p50, 2), round(report.latency_ms.p90, 2),
                round(report.latency_ms.p99, 2), promise(report), sum(report.errors.values()),
                report.degraded_ms.n,
                "-" if report.recall is None else f"{report.recall.mean:.3f}",
                f"{report.generator.lag_share:.1%}",
            )
            for report in reports
        ],
    )  # fmt: skip


def promise(report: LoadReport) -> str:
    """The p99 with every failure as endless."""
    p99_ms = report.promised_ms["p99"]
    return "never" if p99_ms is None else f"{p99_ms:,.2f}"


def told(found: MaxRate) -> str:
    """The answer of a search for the highest rate."""
    goal = f"99 % of all calls fully answered within {found.p99_ms:g} ms"
    if found.recall is not None:
        goal += f", recall at least {found.recall:g}"
    if found.calls_per_s is None:
        return f"no rate is sustained with {goal}: {found.why}"
    why = f" (the search ended early: {found.why})" if found.why else ""
    return f"{found.calls_per_s:,.1f} calls/s are sustained with {goal}{why}"


def write_ratios(ratios: Sequence[Ratio]) -> None:
    """Two runs side by side."""
    write_table(
        ("load", "figure", "first", "second", "ratio", ""),
        [
            (
                ratio.stage, ratio.figure, f"{ratio.first:,.4g}", f"{ratio.second:,.4g}",
                "-" if ratio.ratio is None else f"x {ratio.ratio:.3f}",
                "WORSE" if ratio.worse else "",
            )
            for ratio in ratios
        ],
    )  # fmt: skip


def write_findings(findings: Sequence[Finding]) -> None:
    """The self-check's figures."""
    write_table(
        ("", "must be", "server's own", "shown", ""),
        [
            (
                finding.name, f"{finding.wanted:g} {finding.unit}".rstrip(),
                f"+ {finding.server_took:.2f}" if finding.server_took else "",
                f"{finding.found:.4g} {finding.unit}".rstrip(),
                "ok" if finding.holds else "WRONG",
            )
            for finding in findings
        ],
    )  # fmt: skip
