"""Deadlines on the monotonic clock: every wait has one, and every hop passes on what is left."""

import numbers
import time
from dataclasses import dataclass
from typing import Protocol

from shoal.errors import InvalidArgumentError

DEFAULT_TIMEOUT_S = 10.0
TIMEOUT_KEY = "x-timeout-ms"
"""Metadata: the time that a client gave its call, which gRPC doesn't show to who serves it."""
MAX_TIMEOUT_S = 86_400.0
"""A day; gRPC itself can't carry an endless one."""


class _Context(Protocol):
    def time_remaining(self) -> float | None: ...


@dataclass(frozen=True, slots=True, order=True)
class Deadline:
    """A point on `time.monotonic()`, in seconds."""

    at_s: float

    @classmethod
    def after(cls, seconds: float) -> "Deadline":
        """The point `seconds` from now."""
        return cls(time.monotonic() + seconds)

    @classmethod
    def of(cls, context: _Context, default_s: float = DEFAULT_TIMEOUT_S) -> "Deadline":
        """The caller's deadline, or `default_s` from now where it set none."""
        remaining_s = context.time_remaining()
        # grpc hands out a number near 1e10 where the caller set no deadline
        if remaining_s is None or remaining_s > 1e9:
            remaining_s = default_s
        return cls.after(remaining_s)

    def remaining_s(self) -> float:
        """Seconds left, never below 0."""
        return max(0.0, self.at_s - time.monotonic())

    @property
    def expired(self) -> bool:
        """Whether nothing is left."""
        return time.monotonic() >= self.at_s


def check_timeout(timeout_s: object) -> float:
    """The caller's `timeout_s`, once it is known to be one.

    Raises:
        InvalidArgumentError: it is no number, not above 0, or above `MAX_TIMEOUT_S`.
    """
    # NaN is not <= anything; compared before it is a float, which an int may be too large for
    if isinstance(timeout_s, numbers.Real) and timeout_s <= MAX_TIMEOUT_S and not timeout_s <= 0:
        return float(timeout_s)
    raise InvalidArgumentError(
        f"timeout_s is {timeout_s!r}; it must be a number above 0 and at most {MAX_TIMEOUT_S:,.0f}",
        field="timeout_s",
    )
