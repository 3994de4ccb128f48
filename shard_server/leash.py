"""A thread's work that others may end: between its steps, and the child that it waits for.

Rule: nothing outlives its reason. A child ends where nobody waits for it any more, and where it is
late. Must not know what the work or the child is for.
"""

import subprocess
import threading
from collections.abc import Mapping, Sequence

from shoal.errors import UnavailableError


class Leash:
    """What one thread works by and another may cut; it stays cut."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._is_cut = False
        self._child: subprocess.Popen[bytes] | None = None

    def cut(self) -> None:
        """End the child, and the work at its next look; from any thread."""
        with self._lock:
            self._is_cut = True
            if self._child is not None:
                self._child.kill()

    def check(self) -> None:
        """Raise UnavailableError where it was cut."""
        if self._is_cut:
            raise UnavailableError("nobody waits for this any more")

    def hold(self, child: "subprocess.Popen[bytes]") -> None:
        """Have `child` end with the leash; at once where it was cut already."""
        with self._lock:
            self._child = child
            if self._is_cut:
                child.kill()


def run_child(
    command: Sequence[str],
    *,
    input: bytes,  # noqa: A002 -- as `subprocess.run` calls it
    timeout: float,
    env: Mapping[str, str],
    leash: Leash,
) -> "subprocess.CompletedProcess[bytes]":
    """As `subprocess.run` with captured output, for a child that others may end.

    Raises:
        subprocess.TimeoutExpired: it was not done after `timeout` seconds, and is killed.
        UnavailableError: the leash was cut.
        OSError: it can't be started.
    """
    leash.check()
    pipe = subprocess.PIPE
    with subprocess.Popen(  # noqa: S603 -- our own interpreter and module
        command, stdin=pipe, stdout=pipe, stderr=pipe, env=env
    ) as child:
        leash.hold(child)
        try:
            out, err = child.communicate(input, timeout=timeout)
        except BaseException:
            child.kill()
            raise
    leash.check()
    return subprocess.CompletedProcess(command, child.returncode, out, err)
