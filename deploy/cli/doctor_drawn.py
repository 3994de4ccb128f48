"""A doctor's findings drawn by rich: a table a subject. Knows nothing of what was looked at."""

from collections.abc import Sequence
from itertools import groupby

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from deploy.doctor.examination import CHECKS, SUBJECTS
from deploy.doctor.findings import Finding, Severity

_STYLES = {
    Severity.FAULT: "bold red",
    Severity.WARNING: "yellow",
    Severity.NOTE: "cyan",
    Severity.OK: "green",
}
_PLACES = {subject: at for at, subject in enumerate(dict.fromkeys(c.subject for c in CHECKS))}


def drawn(findings: Sequence[Finding], summary: str) -> RenderableType:
    """The findings by subject, each subject's worst first, and the summary below."""
    table = Table(box=None, show_header=False, padding=(0, 1))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column()
    ordered = sorted(findings, key=lambda f: (_PLACES[SUBJECTS[f.check]], -f.severity.rank))
    for subject, group in groupby(ordered, key=lambda f: SUBJECTS[f.check]):
        for at, finding in enumerate(group):
            style = _STYLES[finding.severity]
            what = Text(finding.what)
            if finding.remedy:
                what.append(f"\n→ {finding.remedy}", style="dim")
            table.add_row(
                Text(subject if at == 0 else "", style="bold"),
                Text(finding.severity.value, style=style),
                what,
            )
    parts: list[RenderableType] = [table] if findings else []
    return Group(*parts, Text(summary, style="bold"))
