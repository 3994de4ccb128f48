"""The work of a mining that goes on where it was: an append-only file beside the output.

Rule: the first line says what is being mined, each further one is a question's record, in the
questions' order; a line counts once its end is written. A kill can only tear the last line.
"""

import fcntl
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from shoal.errors import ConfigError, LockedError
from shoal.formats.files import fsync_dir, guard_storage

SUFFIX = ".work"


class WorkFile:
    """`out`'s work, for one process at a time."""

    def __init__(self, out: Path, identity: str, *, restart: bool = False) -> None:
        """Opens it, cutting off a torn line; with `restart`, throws away what is in it.

        Raises:
            ConfigError: it is the work of another mining.
            LockedError: another process is at it.
            StorageError: the disk refuses.
        """
        self._out = out
        self._path = out.with_name(out.name + SUFFIX)
        with guard_storage(self._path):
            self._file = self._path.open("a+b")
            self._lock()
            if restart:
                self._file.truncate(0)
            self.n_done = self._resume(identity)

    def append(self, records: Iterable[Any]) -> None:
        """Adds whole questions; they are kept from here on, whatever ends the process."""
        lines = [json.dumps(record, ensure_ascii=False) + "\n" for record in records]
        with guard_storage(self._path):
            self._file.write("".join(lines).encode())
            self._file.flush()
        self.n_done += len(lines)

    def records(self) -> Iterator[Any]:
        """All records so far."""
        self._file.seek(0)
        next(self._file)
        for line in self._file:
            yield self._read(line)

    def finish(self, lines: Iterable[str]) -> None:
        """Writes the output, a JSON list of `lines`, whole or not at all; the work is done."""
        partial = self._out.with_name(f".{self._out.name}.partial")
        with guard_storage(self._out):
            try:
                with partial.open("w", encoding="utf-8") as file:
                    file.write("[")
                    for number, line in enumerate(lines):
                        file.write((",\n" if number else "\n") + line)
                    file.write("\n]\n")
                    file.flush()
                    os.fsync(file.fileno())  # the work file goes next: nothing else has it then
                partial.replace(self._out)
            finally:  # a full disk needs its room back
                partial.unlink(missing_ok=True)
            fsync_dir(self._out.parent)
            self._path.unlink()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()

    def _read(self, line: bytes) -> dict[str, Any]:
        try:
            return dict(json.loads(line))
        except (ValueError, TypeError):
            raise ConfigError(f"{self._path} is damaged; begin anew with --restart") from None

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.close()
            raise LockedError(f"{self._out}: another process is mining into it") from None

    def _resume(self, identity: str) -> int:
        """Questions that are done already."""
        self._file.seek(0)
        header = self._file.readline()
        if not header.endswith(b"\n"):
            self._file.truncate(0)
            self._file.write(json.dumps({"format": 1, "mining": identity}).encode() + b"\n")
            self._file.flush()
            return 0
        if self._read(header).get("mining") != identity:
            self._file.close()
            raise ConfigError(
                f"{self._path} holds the work of another mining (other data, settings or index); "
                "run that to its end, or give --restart"
            )
        n_lines, end = 0, self._file.tell()
        for line in self._file:
            if not line.endswith(b"\n"):
                self._file.truncate(end)
                break
            n_lines, end = n_lines + 1, end + len(line)
        return n_lines
