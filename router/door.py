"""Calls that waited too long before any code of ours saw them. Time is an argument; no sockets.

gRPC hands over one call every two turns of the event loop, oldest first. Under overload the others
wait where admission can't see them, and each is served just too late, however little is under way.
A client of ours says with each call what time it gave it; what is left when the call is handed over
tells how long it waited, by the server's clock alone.

Rule: CoDel's (RFC 8289). A wait above the bound that ends soon is a burst, and all of it is served;
one that has lasted for an interval is a standing queue: calls are refused, which costs a quarter of
an answer, until one comes that waited less.
"""

from collections.abc import Iterable

from shoal.errors import OverloadedError
from shoal.rpc.deadline import TIMEOUT_KEY

INTERVAL_S = 0.2
"""A process that was stopped or starved for a second hands over its fifty calls in less."""


class Door:
    """Refuses while the queue before it stands; belongs to one event loop."""

    def __init__(self, *, wait_s: float) -> None:
        """`wait_s` is the longest wait in seconds that may last."""
        self._wait_s = wait_s
        self._late_since_s: float | None = None

    def check(self, waited_s: float | None, now_s: float) -> None:
        """Lets a call in that waited so long; None where its client didn't say what it gave.

        Raises:
            OverloadedError: calls have waited longer than the bound for an interval.
        """
        if waited_s is None:
            return
        if waited_s <= self._wait_s:
            self._late_since_s = None
            return
        if self._late_since_s is None:
            self._late_since_s = now_s
        if now_s - self._late_since_s >= INTERVAL_S:
            raise OverloadedError(
                f"calls wait for {waited_s:.2f} s before they can be looked at; come back in "
                f"{self._wait_s:.2f} s",
                retry_after_s=self._wait_s,
            )


def waited_s(
    metadata: Iterable[tuple[str, str | bytes]], remaining_s: float | None
) -> float | None:
    """How long a call waited for its handler: what its client gave it less what is left. Pure.

    gRPC counts the time from when the server received the call, and rounds it up.
    """
    if remaining_s is None:
        return None
    for key, value in metadata:
        if key == TIMEOUT_KEY and isinstance(value, str) and value.isdecimal() and len(value) < 10:
            return max(0.0, int(value) / 1e3 - remaining_s)
    return None
