"""Calls that waited too long before any code of ours saw them. Time is an argument; no sockets.

gRPC hands over one call every two turns of the event loop, oldest first. Under overload the others
wait where admission can't see them, and each is served just too late, however little is under way.
A client of ours says with each call what time it gave it; what is left when the call is handed over
tells how long it waited, by the server's clock alone.

Rule: who has spent half of its time before the door would end too late, and is refused, which costs
a quarter of an answer. As with CoDel (RFC 8289) only where that has lasted for an interval: a burst
that is soon over is served, all of it.
"""

from collections.abc import Iterable
from typing import NamedTuple

from shoal.errors import OverloadedError
from shoal.rpc.deadline import TIMEOUT_KEY

INTERVAL_S = 0.2
"""A process that was stopped or starved for a second hands over its fifty calls in less."""
_SPENT_SHARE = 0.5


class Wait(NamedTuple):
    """Seconds that a call waited for its handler, of those that its client gave it."""

    waited_s: float
    given_s: float


class Door:
    """Refuses while the queue before it stands; belongs to one event loop."""

    def __init__(self, *, wait_s: float) -> None:
        """`wait_s` is a wait in seconds that is always in order."""
        self._wait_s = wait_s
        self._late_since_s: float | None = None

    def check(self, wait: Wait | None, now_s: float) -> None:
        """Lets a call in that waited so long; None where its client didn't say what it gave.

        Raises:
            OverloadedError: calls have waited longer than the bound for an interval.
        """
        if wait is None:
            return
        if wait.waited_s <= max(self._wait_s, _SPENT_SHARE * wait.given_s):
            self._late_since_s = None
            return
        if self._late_since_s is None:
            self._late_since_s = now_s
        if now_s - self._late_since_s >= INTERVAL_S:
            raise OverloadedError(
                f"calls wait for {wait.waited_s:.2f} s before they can be looked at; come back in "
                f"{self._wait_s:.2f} s",
                retry_after_s=self._wait_s,
            )


def wait_of(metadata: Iterable[tuple[str, str | bytes]], remaining_s: float | None) -> Wait | None:
    """How long a call waited: what its client gave it less what is left. Pure.

    gRPC counts the time from when the server received the call, and rounds it up.
    """
    if remaining_s is None:
        return None
    for key, value in metadata:
        if key == TIMEOUT_KEY and isinstance(value, str) and value.isdecimal() and len(value) < 10:
            given_s = int(value) / 1e3
            return Wait(max(0.0, given_s - remaining_s), given_s)
    return None
