"""What a check found: a value with what is wrong and what to do. Pure; reads nothing."""

import enum
from collections.abc import Sequence
from dataclasses import dataclass


class Severity(enum.StrEnum):
    """How bad it is."""

    ERROR = "error"
    """It must be mended: the command fails."""
    WARNING = "warning"
    """It depends on what else protects the machine; the command succeeds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that is wrong."""

    check: str
    """The check's name, for programs."""
    severity: Severity
    what: str
    """What was found, as a whole sentence without its full stop."""
    remedy: str
    """What to do, as an imperative."""


def is_well(findings: Sequence[Finding]) -> bool:
    """Whether nothing must be mended."""
    return all(finding.severity is not Severity.ERROR for finding in findings)
