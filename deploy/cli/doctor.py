"""`shoal doctor`: what is wrong with a machine, an index or a cluster, and what to do about it."""

import dataclasses
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from deploy.cli import flags
from deploy.cli.credentials import completed, credentials_for, with_credentials
from deploy.cli.output import counted, write, write_json
from deploy.state import read_state
from shoal.credentials import Credentials
from shoal.errors import ConfigError
from shoal.target import check_target

if TYPE_CHECKING:
    from deploy.doctor.facts.gathering import Question
    from deploy.doctor.findings import Finding


@with_credentials
def doctor(
    *,
    index: Annotated[
        str | None,
        typer.Option(
            "--index",
            metavar="DIR|URL",
            help="Look at this index. Default: the running cluster's.",
        ),
    ] = None,
    name: flags.GivenName = None,
    target: Annotated[
        str | None,
        typer.Option(
            "--target",
            metavar="HOST:PORT",
            help="Look at the cluster behind this router. Default: --name's, where it runs.",
        ),
    ] = None,
    deep: Annotated[
        bool, typer.Option("--deep", help="Read every byte of the index, whatever it takes.")
    ] = False,
    show_all: Annotated[
        bool, typer.Option("--all", help="Show what is as it should be, too.")
    ] = False,
    as_json: flags.Json = False,
    given: Credentials,
) -> None:
    """Look at the machine, the installation, the running cluster and its index, and say what to do.

    Exit code 0 where nothing is worse than a note, 1 where something is a warning, 78 where
    something must be mended (docs/doctor.md).
    """
    from deploy.doctor.examination import CHECKS, SUBJECTS, examine
    from deploy.doctor.facts.gathering import read_facts
    from deploy.doctor.findings import Severity, exit_code, worst

    if name is not None and target is not None:
        raise ConfigError("--name and --target both name a cluster; give one of them")
    findings = examine(read_facts(_question(index, name, target, given, deep=deep)))
    shown = [f for f in findings if show_all or f.severity is not Severity.OK]
    if as_json:
        told = [
            {**dataclasses.asdict(f), "severity": f.severity.value, "subject": SUBJECTS[f.check]}
            for f in shown
        ]
        report = {"worst": worst(findings).value, "well": exit_code(findings) == 0}
        write_json({**report, "findings": told})
    else:
        _show(shown, f"{_summary(findings)}; {counted(len(CHECKS), 'check')} (docs/doctor.md)")
    if code := exit_code(findings):
        raise typer.Exit(code)


def _question(
    index: str | None, name: str | None, target: str | None, given: Credentials, *, deep: bool
) -> "Question":
    """What to look at.

    Raises:
        InvalidArgumentError: the target is no address.
        ConfigError: a name that can't be a cluster's.
    """
    from deploy.doctor.facts.gathering import Question

    if target is not None:
        check_target(target, "--target")
        shown = credentials_for(target, given)
        return Question(target=target, index=index or "", deep=deep, shown=shown)
    state = read_state(name or flags.DEFAULT_NAME)
    if state is None:
        return Question(missing=name or "", index=index or "", deep=deep, shown=given)
    return Question(state=state, index=index or "", deep=deep, shown=completed(state, given))


def _summary(findings: "tuple[Finding, ...]") -> str:
    from deploy.doctor.findings import Severity

    counts = [
        counted(n, severity.value)
        for severity in (Severity.FAULT, Severity.WARNING, Severity.NOTE)
        if (n := sum(finding.severity is severity for finding in findings))
    ]
    return ", ".join(counts) or "nothing to mend"


def _show(shown: "list[Finding]", summary: str) -> None:
    if sys.stdout.isatty():
        from rich.console import Console

        from deploy.cli.doctor_drawn import drawn

        Console().print(drawn(shown, summary))
        return
    for finding in shown:
        write(f"{finding.severity.value}: {finding.what}")
        if finding.remedy:
            write(f"  {finding.remedy}")
    write(summary)
