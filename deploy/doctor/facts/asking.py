"""A program asked, and not waited for longer than it may take.

Rule: what hangs in a driver can't be killed, and to wait for its end, as `subprocess.run` does
after its timeout, would be to hang as well; it is left to the kernel.
"""

import contextlib
import subprocess
from collections.abc import Mapping, Sequence

_END_S = 1.0
"""What a killed process takes to go, if it can."""


def ask(
    command: Sequence[str], timeout_s: float, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """What the program wrote, and how it ended.

    Raises:
        subprocess.TimeoutExpired: it didn't, in `timeout_s` seconds.
        OSError: it can't be started.
    """
    child = subprocess.Popen(  # noqa: S603 -- our own program, or one found by name on purpose
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )
    try:
        out, err = child.communicate(timeout=timeout_s)
    except BaseException:
        child.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(_END_S)
        for pipe in (child.stdout, child.stderr):
            if pipe is not None:
                pipe.close()
        raise
    return subprocess.CompletedProcess(command, child.returncode, out, err)
