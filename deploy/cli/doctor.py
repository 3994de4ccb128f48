"""`shoal doctor`: what is wrong with this machine's set-up, and what to do about it."""

import dataclasses

import typer

from deploy.cli import flags
from deploy.cli.output import write, write_json
from shoal.errors import ConfigError


def doctor(*, as_json: flags.Json = False) -> None:
    """Look for what makes a cluster unsafe: ports of Ray that are open, authentication that is off.

    Exit code 78 where something must be mended; warnings alone are a success.
    """
    from deploy.doctor.checks import CHECKS, examine
    from deploy.doctor.facts import read_facts
    from deploy.doctor.findings import is_well

    findings = examine(read_facts())
    if as_json:
        found = [dataclasses.asdict(finding) for finding in findings]
        write_json({"well": is_well(findings), "findings": found})
    else:
        for finding in findings:
            write(f"{finding.severity.value}: {finding.what}")
            write(f"  {finding.remedy}")
        names = ", ".join(check.__name__.replace("_", " ") for check in CHECKS)
        write(f"looked at: {names}" if findings else f"nothing to mend; looked at: {names}")
    if not is_well(findings):
        raise typer.Exit(ConfigError.exit_code)
