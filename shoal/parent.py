"""A process that ends with the one that started it, however that one ends. Linux."""

import ctypes
import os
import signal

_PR_SET_PDEATHSIG = 1


def die_with_parent(parent_pid: int, number: signal.Signals) -> None:
    """Have the kernel send `number` when the parent dies; it is sent now where it has already.

    The parent may have died before the kernel was asked: that is seen by its pid.
    """
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number)
    if os.getppid() != parent_pid:
        os.kill(os.getpid(), number)
