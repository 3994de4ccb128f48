"""The page of what was promised and measured says what the results say."""

from dataclasses import asdict

import pytest
from faults.record import Record
from faults.report import page


def line(outcome: str, measured_s: float) -> dict:
    record = Record(row="4", fault="a shard is stopped.")
    record.time("it rejoins", 3.0, measured_s)
    cells = [asdict(cell) for cell in record.cells]
    return {"row": "4", "fault": record.fault, "outcome": outcome, "date": "d", "cells": cells}


def test_the_last_run_of_a_test_counts():
    """A test that was run again is told once, as it ended last."""
    told = page([line("not kept", 8.0), line("kept", 2.0)])
    assert told.endswith("| 4 | a shard is stopped | it rejoins: <= 3000 ms | 2000 ms | d |\n")
    assert "8000 ms" not in told


def test_a_broken_promise_is_told():
    """A page that hid its failures would be worth nothing."""
    assert "**not kept**" in page([line("kept", 2.0), line("not kept", 8.0)])


def test_a_slow_run_is_told_and_fails_where_times_are_judged():
    """The suite's own machine may be busy with anything: its times are no verdict."""
    for judges_times in (True, False):
        record = Record(row="4", fault="a shard is stopped.", judges_times=judges_times)
        record.time("it rejoins", 3.0, 9.1)
        told = [(bool(record.broken), bool(record.slow))]
        record.exactly("answers that were wrong", 0, 0)
        assert told == [(judges_times, not judges_times)]
        if judges_times:
            with pytest.raises(AssertionError, match="it rejoins"):
                record.refuse_broken()
        else:
            record.refuse_broken()


def test_rows_stand_in_their_order():
    """10 comes after 9, and what has no number last."""
    rows = [{**line("kept", 1.0), "row": row} for row in ("10", "soak", "28-33", "9")]
    told = [text.split(" | ")[0] for text in page(rows).splitlines()[-4:]]
    assert told == ["| 9", "| 10", "| 28-33", "| soak"]
