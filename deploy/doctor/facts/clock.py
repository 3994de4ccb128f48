"""This machine's clock: whether the kernel believes it, and what it costs to read. Linux."""

import ctypes
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

_SOURCE = Path("/sys/devices/system/clocksource/clocksource0/current_clocksource")
_TIME_ERROR = 5
"""adjtimex(2): the clock is not synchronized."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Clock:
    """`synchronized` is None where the kernel can't be asked; `error_s` is the most that it thinks
    to be off, told where it is synchronized. `source` is "" where it isn't told.
    """

    now: datetime
    synchronized: bool | None
    error_s: float = 0.0
    source: str = ""


class _Timex(ctypes.Structure):
    """struct timex of adjtimex(2), as far as it is read; the rest is room for what it writes."""

    _fields_ = (
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long),
        ("status", ctypes.c_int),
        ("rest", ctypes.c_char * 512),
    )


def read_clock() -> Clock:
    """Now."""
    synchronized, error_s = _ask_kernel()
    source = _SOURCE.read_text(encoding="ascii").strip() if _SOURCE.is_file() else ""
    return Clock(now=datetime.now(UTC), synchronized=synchronized, error_s=error_s, source=source)


def _ask_kernel() -> tuple[bool | None, float]:
    # with `modes` 0 it only reads, which everyone may
    ask = getattr(ctypes.CDLL(None), "adjtimex", None)
    if ask is None:
        return None, 0.0
    told = _Timex()
    state = ask(ctypes.byref(told))
    if state < 0:  # a sandbox that lets nobody ask
        return None, 0.0
    if state == _TIME_ERROR:
        return False, 0.0
    return True, told.maxerror / 1e6
