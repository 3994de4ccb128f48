"""The processes of one training on this machine: started together, heard as one, ended together.

Rule: the first that fails says why, once, with its exit code, and the others are ended. Stdout is
the first process's; of stderr, its notes as they come. Knows nothing of torch.
"""

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from deploy.interrupts import ended_as_by_ctrl_c
from encoder_service.training.place import environment_of
from shoal.child_environment import import_environment
from shoal.errors import UnavailableError

_ERROR = "shoal: error: "
_INTERNAL = 70
_POLL_S = 0.05
_GRACE_S = 5.0
_CAUSE_S = 2.0
"""For whoever failed first to come to its end, where one was seen that may have met that."""


def run_together(command: Sequence[str], n_processes: int, tell: Callable[[str], None]) -> int:
    """Runs `command` as `n_processes` and returns the exit code: 0, or that of who failed first.

    Ctrl-C and SIGTERM end all of them and raise KeyboardInterrupt.

    Args:
        command: of each process, which learns its place from the environment.
        n_processes: how many.
        tell: takes each line for stderr.

    Raises:
        UnavailableError: a process was ended by a signal.
    """
    with ended_as_by_ctrl_c(), tempfile.TemporaryDirectory(prefix="shoal-train-") as folder:
        started: list[_Process] = []
        try:
            started.extend(
                _Process(command, rank, n_processes, Path(folder)) for rank in range(n_processes)
            )
            return _until_the_end(started, tell)
        finally:
            _end(started)


def cause_of(codes: Sequence[int | None]) -> tuple[int, int] | None:
    """The rank and the exit code of who failed first, of all ranks' codes; None where none has.

    A process whose company died fails a moment later, with a bug's exit code: it isn't the cause.
    """
    failed = [(code == _INTERNAL, rank, code) for rank, code in enumerate(codes) if code]
    return min(failed)[1:] if failed else None


class _Process:
    """One of them; what it writes on stderr goes through a file, since nobody may wait for us."""

    def __init__(self, command: Sequence[str], rank: int, n_processes: int, folder: Path) -> None:
        log = folder / f"{rank}.log"
        environment = environment_of(
            {**os.environ, **import_environment()},
            rank=rank,
            n_processes=n_processes,
            meeting=folder / "meeting",
            parent_pid=os.getpid(),
            n_cores=len(os.sched_getaffinity(0)),
        )
        with log.open("wb") as stderr:
            self.popen = subprocess.Popen(  # noqa: S603 -- our own command, given again
                command,
                stdin=subprocess.DEVNULL,
                stdout=None if rank == 0 else subprocess.DEVNULL,
                stderr=stderr,
                env=environment,
                start_new_session=True,  # the terminal's Ctrl-C is for us, who tell all of them
            )
        self._written: BinaryIO = log.open("rb")
        self._rest = b""

    def new_lines(self) -> list[str]:
        """Whole lines since the last call; at its end, what is left of the last one, too."""
        *lines, self._rest = (self._rest + self._written.read()).split(b"\n")
        if self.popen.returncode is not None and self._rest:
            lines, self._rest = [*lines, self._rest], b""
        return [line.decode("utf-8", "replace") for line in lines]

    def close(self) -> None:
        self._written.close()


def _until_the_end(started: Sequence[_Process], tell: Callable[[str], None]) -> int:
    errors: list[str] = []
    until_s: float | None = None
    while True:
        codes = [each.popen.poll() for each in started]
        for line in started[0].new_lines():
            (errors.append if line.startswith(_ERROR) else tell)(line)
        cause = cause_of(codes)
        if cause is not None and cause[1] == _INTERNAL and None in codes:
            until_s = until_s or time.monotonic() + _CAUSE_S
            if time.monotonic() < until_s:
                cause = None
        if cause is not None:
            rank, code = cause
            for line in errors if rank == 0 else started[rank].new_lines():
                tell(line)
            if code < 0:
                raise UnavailableError(
                    f"process {rank} of {len(started)} was ended by {signal.Signals(-code).name}, "
                    "and so the others; the same command goes on from the last checkpoint"
                )
            return code
        if not any(code is None for code in codes):
            return 0
        time.sleep(_POLL_S)


def _end(started: Sequence[_Process]) -> None:
    """Asks those that run to end, and kills who doesn't."""
    until_s = time.monotonic() + _GRACE_S
    for each in started:
        each.popen.terminate()  # nothing, where it has ended
    for each in started:
        with suppress(subprocess.TimeoutExpired):
            each.popen.wait(max(0.0, until_s - time.monotonic()))
        each.popen.kill()
        each.popen.wait()
        each.close()
