"""When background work may begin, so that all of it keeps to a share of CPU time. Pure.

Rule: what work takes is known when it is over, so it is paid for afterwards: the next may not begin
before the share has made up for it. Over any stretch of time what was begun therefore took at most
the share of it, and one piece of work more. (A token bucket that holds nothing and may go into
debt, kept as the time when the debt is paid: the generic cell rate algorithm, ITU-T I.371, with a
tolerance of 0.) Time is an argument; knows nothing of searches.
"""

import math
from typing import NamedTuple


class CpuShare(NamedTuple):
    """A budget of `rate` CPU seconds a second, above 0; nothing may begin before `due_s`."""

    rate: float
    due_s: float = -math.inf

    def wait_s(self, now_s: float) -> float:
        """How long until work may begin; 0.0 where it may now."""
        return max(0.0, self.due_s - now_s)

    def after(self, begun_s: float, cpu_s: float) -> "CpuShare":
        """The budget once work that began then has taken so much; 0 or more."""
        return self._replace(due_s=max(self.due_s, begun_s) + cpu_s / self.rate)

    def not_before(self, at_s: float) -> "CpuShare":
        """The same, with nothing to begin before then either."""
        return self._replace(due_s=max(self.due_s, at_s))
