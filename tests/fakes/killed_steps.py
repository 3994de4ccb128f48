"""Work that is killed before its n-th change of the file system, in a child of its own for each n.

The children are forked by a process that has imported everything and started no thread: importing
it again for each would take nearly all of the time.
"""

import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_CHANGES = frozenset({"os.rename", "os.remove", "os.rmdir", "os.mkdir", "open"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """A child's end; `n_left` is how many of its steps it did not need, 0 where it was killed."""

    code: int
    n_left: int


def killed_at(program: str, runs: Sequence[tuple[Path, int]], *arguments: str) -> list[Ended]:
    """Runs `program`, which must call `run_all`, for each (folder, steps before the kill)."""
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        input="".join(f"{n_steps} {folder}\n" for folder, n_steps in runs),
        env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    told = [line.split() for line in done.stdout.splitlines()]
    assert len(told) == len(runs), done.stderr
    ended = [Ended(code=int(words[-1]), n_left=int(words[0]) if words[1:] else 0) for words in told]
    assert all(end.code in {0, -signal.SIGKILL} for end in ended), done.stderr
    return ended


def run_all(work: Callable[[Path], object]) -> None:
    """In the program: does the work in each folder that stdin names, in a child."""
    for line in sys.stdin.read().splitlines():
        n_steps, _, folder = line.partition(" ")
        child = os.fork()
        if child == 0:
            _work_until(work, Path(folder), int(n_steps))
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        print(code, flush=True)


def _work_until(work: Callable[[Path], object], folder: Path, n_left: int) -> None:
    def count(event: str, arguments: object) -> None:
        nonlocal n_left
        if event in _CHANGES:
            n_left -= 1
            if n_left < 0:
                os.kill(os.getpid(), signal.SIGKILL)

    code = 1
    try:
        sys.addaudithook(count)
        work(folder)
        print(n_left, end=" ", flush=True)
        code = 0
    finally:
        if code:
            traceback.print_exc()
        os._exit(code)
