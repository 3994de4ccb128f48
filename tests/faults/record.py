"""What a fault's test promised and measured, a line of JSON a test in .build/faults/results.jsonl.

Timings are recorded and fail at three times what is promised: a shared machine is slow, not wrong.
"""

import json
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

RESULTS = Path(__file__).resolve().parents[2] / ".build" / "faults" / "results.jsonl"
TOLERANCE = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One figure beside its promise, in words that a reader of the table understands."""

    what: str
    promised: str
    measured: str


@dataclass(slots=True, kw_only=True)
class Record:
    """The cells of one test."""

    row: str
    fault: str
    cells: list[Cell] = field(default_factory=list)

    def time(self, what: str, promised_s: float, measured_s: float) -> None:
        """A timing: fails at three times the promise."""
        self.cells.append(
            Cell(what=what, promised=f"<= {_ms(promised_s)}", measured=_ms(measured_s))
        )
        assert measured_s <= TOLERANCE * promised_s, (
            f"{what}: {_ms(measured_s)}, promised {_ms(promised_s)}"
        )

    def about(self, what: str, wanted_s: float, measured_s: float, share: float = 0.1) -> None:
        """A timing that arithmetic gives, within a share of it: fails at three times the share."""
        self.cells.append(
            Cell(what=what, promised=f"{_ms(wanted_s)} +- {share:.0%}", measured=_ms(measured_s))
        )
        assert abs(measured_s / wanted_s - 1) <= TOLERANCE * share, f"{what}: {_ms(measured_s)}"

    def at_most(self, what: str, promised: float, measured: float) -> None:
        """A count or share that has no excuse."""
        self.cells.append(Cell(what=what, promised=f"<= {promised:g}", measured=f"{measured:.4g}"))
        assert measured <= promised, f"{what}: {measured:g}, promised at most {promised:g}"

    def at_least(self, what: str, promised: float, measured: float) -> None:
        """As `at_most`, the other way."""
        self.cells.append(Cell(what=what, promised=f">= {promised:g}", measured=f"{measured:.4g}"))
        assert measured >= promised, f"{what}: {measured:g}, promised at least {promised:g}"

    def exactly(self, what: str, promised: object, measured: object) -> None:
        """A fact."""
        self.cells.append(Cell(what=what, promised=_said(promised), measured=_said(measured)))
        assert measured == promised, f"{what}: {measured!r}, promised {promised!r}"

    def only(self, what: str, allowed: set[str], measured: set[str]) -> None:
        """Names of a closed set: nothing else may come."""
        cell = Cell(
            what=what, promised=" or ".join(sorted(allowed)), measured=", ".join(sorted(measured))
        )
        self.cells.append(cell)
        assert measured <= allowed, f"{what}: {sorted(measured)}, promised {sorted(allowed)}"

    def write(self, *, outcome: str) -> None:
        """Appends the line."""
        RESULTS.parent.mkdir(parents=True, exist_ok=True)
        told = {
            "row": self.row,
            "fault": self.fault,
            "outcome": outcome,
            "date": time.strftime("%Y-%m-%d"),
            "cells": [asdict(cell) for cell in self.cells],
        }
        with RESULTS.open("a", encoding="utf-8") as file:
            file.write(json.dumps(told) + "\n")


def _said(fact: object) -> str:
    return ", ".join(sorted(map(str, fact))) if isinstance(fact, set) else str(fact)


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.0f} ms" if seconds < 10 else f"{seconds:.1f} s"
