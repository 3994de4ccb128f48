"""What a fault's test promised and measured, a line of JSON a test in .build/faults/results.jsonl.

Timings are recorded. Where a run judges them (`--judge-times`, as `make test-faults` does) they
fail at three times what is promised: a shared machine is slow, not wrong. Other runs tell them.
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
    """The cells of one test; one that is broken lets the test go on, to measure the rest."""

    row: str
    fault: str
    judges_times: bool = True
    cells: list[Cell] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    slow: list[str] = field(default_factory=list)
    """Timings beyond their promise in a run that doesn't judge them."""

    def time(self, what: str, promised_s: float, measured_s: float) -> None:
        """A timing: fails at three times the promise."""
        is_kept = measured_s <= TOLERANCE * promised_s
        self._add_time(what, f"<= {_ms(promised_s)}", _ms(measured_s), is_kept)

    def about(self, what: str, wanted_s: float, measured_s: float, share: float = 0.1) -> None:
        """A timing that arithmetic gives, within a share of it: fails at three times the share."""
        is_near = abs(measured_s / wanted_s - 1) <= TOLERANCE * share
        self._add_time(what, f"{_ms(wanted_s)} +- {share:.0%}", _ms(measured_s), is_near)

    def at_most(self, what: str, promised: float, measured: float) -> None:
        """A count or share that has no excuse."""
        self._add(what, f"<= {promised:g}", f"{measured:.4g}", measured <= promised)

    def at_least(self, what: str, promised: float, measured: float) -> None:
        """As `at_most`, the other way."""
        self._add(what, f">= {promised:g}", f"{measured:.4g}", measured >= promised)

    def exactly(self, what: str, promised: object, measured: object) -> None:
        """A fact."""
        self._add(what, _said(promised), _said(measured), measured == promised)

    def only(self, what: str, allowed: set[str], measured: set[str]) -> None:
        """Names of a closed set: nothing else may come."""
        self._add(what, " or ".join(sorted(allowed)), _said(measured), measured <= allowed)

    def refuse_broken(self) -> None:
        """Fails where a promise was broken, naming each."""
        assert not self.broken, "; ".join(self.broken)

    def _add(self, what: str, promised: str, measured: str, is_kept: bool) -> None:
        self._measured(what, promised, measured, None if is_kept else self.broken)

    def _add_time(self, what: str, promised: str, measured: str, is_kept: bool) -> None:
        late = self.broken if self.judges_times else self.slow
        self._measured(what, promised, measured, None if is_kept else late)

    def _measured(self, what: str, promised: str, measured: str, against: list[str] | None) -> None:
        self.cells.append(Cell(what=what, promised=promised, measured=measured))
        if against is not None:
            against.append(f"{what}: {measured}, promised {promised}")

    def write(self, *, is_kept: bool) -> None:
        """Appends the line."""
        RESULTS.parent.mkdir(parents=True, exist_ok=True)
        told = {
            "row": self.row,
            "fault": self.fault,
            "outcome": "not kept" if self.broken or self.slow or not is_kept else "kept",
            "date": time.strftime("%Y-%m-%d"),
            "cells": [asdict(cell) for cell in self.cells],
        }
        with RESULTS.open("a", encoding="utf-8") as file:
            file.write(json.dumps(told) + "\n")


def _said(fact: object) -> str:
    return ", ".join(sorted(map(str, fact))) if isinstance(fact, set) else str(fact)


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.0f} ms" if seconds < 10 else f"{seconds:.1f} s"
