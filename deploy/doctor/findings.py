"""What a check found: a value with what was seen and what to do. Pure; reads nothing."""

import enum
from collections.abc import Iterable
from dataclasses import dataclass

from shoal.errors import ConfigError, VerdictError


class Severity(enum.StrEnum):
    """How bad it is, mildest first."""

    OK = "ok"
    """It was looked at, and is as it should be."""
    NOTE = "note"
    """Worth knowing; nothing need be done."""
    WARNING = "warning"
    """It costs speed or safety, or will: somebody should decide."""
    FAULT = "fault"
    """It must be mended."""

    @property
    def rank(self) -> int:
        """0 for the mildest."""
        return list(Severity).index(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that was looked at."""

    check: str
    """The check's name, for programs."""
    severity: Severity
    what: str
    """What was seen, as a whole sentence without its full stop."""
    remedy: str = ""
    """What to do, as an imperative; empty where nothing need be done."""


def worst(findings: Iterable[Finding]) -> Severity:
    """The worst severity among them; OK where there is none."""
    return max((f.severity for f in findings), key=lambda s: s.rank, default=Severity.OK)


def exit_code(findings: Iterable[Finding]) -> int:
    """0 for nothing worse than a note, 1 for warnings, 78 (EX_CONFIG) for a fault."""
    match worst(findings):
        case Severity.FAULT:
            return ConfigError.exit_code
        case Severity.WARNING:
            return VerdictError.exit_code
        case _:
            return 0


def ok(check: str, what: str) -> Finding:
    """Nothing is wrong."""
    return Finding(check=check, severity=Severity.OK, what=what)


def note(check: str, what: str, remedy: str = "") -> Finding:
    """Worth knowing."""
    return Finding(check=check, severity=Severity.NOTE, what=what, remedy=remedy)


def warning(check: str, what: str, remedy: str) -> Finding:
    """Somebody should decide."""
    return Finding(check=check, severity=Severity.WARNING, what=what, remedy=remedy)


def fault(check: str, what: str, remedy: str) -> Finding:
    """It must be mended."""
    return Finding(check=check, severity=Severity.FAULT, what=what, remedy=remedy)
