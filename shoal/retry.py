"""Whether a failed call is tried again, and when. Pure: time and chance are arguments.

The rules, which every client of Shoal follows:
1. UNAVAILABLE is tried again after a jittered, doubling delay, unless the server says not to
   (`grpc-retry-pushback-ms` below 0, gRFC A6); a pushback of 0 or more is the delay.
2. RESOURCE_EXHAUSTED is tried again only after the delay that its RetryInfo names, and up to half
   of it later: everybody who was refused together would otherwise return together.
3. CANCELLED that the caller didn't ask for is UNAVAILABLE in disguise: a stopping Python server
   answers queued calls so (grpc#41785).
4. Nothing else is tried again, and nothing whose delay would outlast the caller's time limit.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from shoal.errors import CancelledError, OverloadedError, ShoalError, UnavailableError
from shoal.rpc.status import PUSHBACK_KEY


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """How often and how patiently: delays double from `first_delay_s` up to `max_delay_s`."""

    max_attempts: int = 4
    first_delay_s: float = 0.1
    max_delay_s: float = 2.0


DEFAULT_POLICY = RetryPolicy()


def retry_delay_s(
    error: ShoalError,
    *,
    pushback_ms: int | None,
    attempt: int,
    remaining_s: float,
    chance: float,
    policy: RetryPolicy = DEFAULT_POLICY,
) -> float | None:
    """Seconds to wait before the next attempt, or None to give the error to the caller.

    Args:
        error: what the attempt ended with.
        pushback_ms: what `pushback_ms_of` read; None where the server said nothing.
        attempt: the attempt that failed, from 1.
        remaining_s: what is left of the caller's time limit.
        chance: uniform in [0, 1): spreads our own delay from a half to the whole, and a delay that
            RetryInfo names from the whole to one and a half.
        policy: how often and how patiently.
    """
    if attempt >= policy.max_attempts:
        return None
    if isinstance(error, OverloadedError):
        delay_s = error.retry_after_s
        if delay_s <= 0:  # no RetryInfo, so no leave to come back: a message over the size limit
            return None
        delay_s *= 1 + chance / 2
    elif isinstance(error, UnavailableError | CancelledError):
        if pushback_ms is not None and pushback_ms < 0:
            return None
        if pushback_ms is None:
            delay_s = min(policy.max_delay_s, policy.first_delay_s * 2 ** (attempt - 1))
            delay_s *= 0.5 + chance / 2
        else:
            delay_s = pushback_ms / 1000
    else:
        return None
    return delay_s if delay_s < remaining_s else None


def pushback_ms_of(trailing: Iterable[tuple[str, str | bytes]] | None) -> int | None:
    """The server's pushback; what can't be read as a number counts as "don't" (gRFC A6)."""
    for key, value in trailing or ():
        if key == PUSHBACK_KEY:
            try:
                return int(value)
            except ValueError:
                return -1
    return None
