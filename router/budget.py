"""How many calls may be made beside those that were asked for. Pure: time is an argument.

Extra calls are a share of the calls of the last 1 to 2 windows, and a few more, so that a quiet
router may retry at all. Without it, retries double the load of what fails under load (Google's SRE
book, "Addressing Cascading Failures"; Finagle's RetryBudget counts in windows likewise).
"""

import math


class CallBudget:
    """Grants extra calls; in any window at most `share` of the calls offered, and `floor`."""

    __slots__ = ("_floor", "_offered", "_share", "_since_s", "_spent", "_window_s")

    def __init__(self, share: float, *, floor: int, window_s: float) -> None:
        self._share = share
        self._floor = floor
        self._window_s = window_s
        self._since_s = -math.inf
        self._offered = [0, 0]
        self._spent = [0, 0]

    def offer(self, n_calls: int, now_s: float) -> None:
        """Counts calls that were asked for."""
        self._turn(now_s)
        self._offered[0] += n_calls

    def take(self, now_s: float) -> bool:
        """Whether one more call may be made; it counts as made."""
        self._turn(now_s)
        if sum(self._spent) + 1 > self._floor + self._share * sum(self._offered):
            return False
        self._spent[0] += 1
        return True

    def _turn(self, now_s: float) -> None:
        passed_s = now_s - self._since_s
        if passed_s < self._window_s:
            return
        in_time = passed_s < 2 * self._window_s
        self._offered = [0, self._offered[0] if in_time else 0]
        self._spent = [0, self._spent[0] if in_time else 0]
        self._since_s = now_s
