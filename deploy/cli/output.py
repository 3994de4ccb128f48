"""What a command writes: JSON or a table on stdout, progress and notes on stderr."""

import contextlib
import json
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

_LINE_EVERY_S = 5.0


class Progress(Protocol):
    """Called often while work goes on."""

    def __call__(self, stage: str, done: int, total: int | None) -> None:
        """`done` of `total` (None: not known yet) of `stage`'s work."""


def write(line: str = "") -> None:
    """A line of the command's result."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def note(line: str) -> None:
    """A line beside the result, for people."""
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


def write_json(value: Any) -> None:
    """The result for programs."""
    write(json.dumps(rounded(value), indent=2, ensure_ascii=False, default=str))


def rounded(value: Any) -> Any:
    """JSON values with floats of seven digits: all that a score has, and no 0.30000000000000004."""
    match value:
        case float():
            return float(f"{value:.7g}")
        case dict():
            return {key: rounded(item) for key, item in value.items()}
        case list() | tuple():
            return [rounded(item) for item in value]
        case _:
            return value


def counted(n: int, noun: str) -> str:
    """`n` and its noun: "1 hit", "2 hits", "1,000 hits"."""
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"


def write_table(headers: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Columns as wide as their widest cell; numbers to the right."""
    cells = [[str(cell) for cell in row] for row in rows]
    widths = [
        max(len(header), *(len(row[i]) for row in cells), 0) for i, header in enumerate(headers)
    ]
    right = [
        bool(rows) and all(isinstance(row[i], int | float) for row in rows)
        for i in range(len(headers))
    ]

    def line(texts: Sequence[str]) -> str:
        padded = (
            text.rjust(width) if is_right else text.ljust(width)
            for text, width, is_right in zip(texts, widths, right, strict=True)
        )
        return "  ".join(padded).rstrip()

    write(line(list(headers)))
    for row in cells:
        write(line(row))


@contextlib.contextmanager
def progress() -> Iterator[Progress]:
    """Progress with rate and time left: bars on a terminal, a line every 5 s elsewhere."""
    if sys.stderr.isatty():
        with _bars() as show:
            yield show
    else:
        yield _Lines().show


@contextlib.contextmanager
def _bars() -> Iterator[Progress]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        TaskID,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.progress import Progress as Bars

    bars = Bars(
        TextColumn("{task.description:<10}"), BarColumn(), MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"), TimeElapsedColumn(), TimeRemainingColumn(),
        console=Console(stderr=True),
    )  # fmt: skip
    tasks: dict[str, tuple[TaskID, float]] = {}
    n_kept: dict[str, int] = {}

    def show(stage: str, done: int, total: int | None) -> None:
        if stage not in tasks:
            tasks[stage] = bars.add_task(stage, total=total, rate=""), time.monotonic()
        task, begun_s = tasks[stage]
        kept = stage.startswith("kept ")
        if kept:
            n_kept[stage.removeprefix("kept ")] = done
        rate = (done - n_kept.get(stage, 0)) / max(1e-9, time.monotonic() - begun_s)
        shown = f"{rate:,.0f}/s" if done and not kept else ""
        bars.update(task, completed=done, total=total, rate=shown)

    with bars:
        yield show


class _Lines:
    def __init__(self) -> None:
        self._begun_s: dict[str, float] = {}
        self._kept: dict[str, int] = {}
        self._called_s = time.monotonic()
        self._shown_s = 0.0

    def show(self, stage: str, done: int, total: int | None) -> None:
        kept, _, of_stage = stage.partition(" ")
        if kept == "kept":
            self._kept[of_stage] = done
            note(f"{of_stage}: {done:,} kept from an earlier, interrupted run")
            return
        now_s = time.monotonic()
        # a stage begins where the one before it ended
        begun_s = self._begun_s.setdefault(stage, self._called_s)
        self._called_s = now_s
        ended = total is not None and done >= total
        if now_s - self._shown_s < _LINE_EVERY_S and not ended:
            return
        self._shown_s = now_s
        n_new = done - self._kept.get(stage, 0)
        rate = n_new / (now_s - begun_s) if now_s > begun_s else 0.0
        of = f" of {total:,}" if total is not None else ""
        left = ""
        if total is not None and rate and not ended:
            left = f", {(total - done) / rate:.0f} s left"
        note(f"{stage}: {done:,}{of} ({rate:,.0f}/s{left})" if rate else f"{stage}: {done:,}{of}")
