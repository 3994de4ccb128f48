"""Whether a replica is used, as a value, and what moves it. Pure: no sockets; time is an argument.

CONNECTING ── check passes ──> HEALTHY ── 3 strikes ──> DOUBTED ── pause, check passes ──> TRIAL
     any ── can't be reached, check fails ──> EJECTED ── pause, check passes ──> TRIAL
   TRIAL ── one good answer ──> HEALTHY;  TRIAL ── one strike ──> DOUBTED, for longer

A strike is an answer that was late, overtaken by a hedge, or no answer (overloaded, not to be
believed). Calls that began before the last strike are part of it: one stall meets all that are
under way, and says one thing, not three. One that is doubted is asked only where there is no
other; one that is ejected never. A strike leaves nobody out whose siblings are no better: under
overload all are late.
"""

import enum
import math
from dataclasses import dataclass, replace


class State(enum.Enum):
    """Where a replica stands."""

    CONNECTING = "connecting"
    HEALTHY = "healthy"
    TRIAL = "trial"
    DOUBTED = "doubted"
    EJECTED = "ejected"


class Cause(enum.Enum):
    """Why a replica is left out: the label of `shoal_ejections_total`."""

    UNREACHABLE = "unreachable"
    UNRESPONSIVE = "unresponsive"
    UNFIT = "unfit"
    STRIKES = "strikes"


MAX_STRIKES = 3
_FRESH_S = 0.1
"""How long a strike counts as load."""
_FIRST_PAUSE_S = 0.25
_LONGEST_PAUSE_S = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """One replica's; replaced as a whole.

    `n_relapses` counts the trials lost and strikes out since it last passed one; the pause before
    the next trial doubles with it. `not_before_s` is when that pause is over, `struck_s` when the
    last strike came.
    """

    state: State = State.CONNECTING
    detail: str = ""
    strikes: int = 0
    n_relapses: int = 0
    not_before_s: float = 0.0
    struck_s: float = -math.inf

    @property
    def usable(self) -> bool:
        """Whether it may be asked, if only for want of another."""
        return self.state in _USABLE

    def weight(self, now_s: float) -> int:
        """How many queries its strikes count as where load is compared."""
        return self.strikes if now_s - self.struck_s < _FRESH_S else 0

    def after_check(self, now_s: float) -> "Standing":
        """A check found it there, and fit."""
        if self.state is State.CONNECTING:
            return Standing(state=State.HEALTHY)
        if self.state in (State.HEALTHY, State.TRIAL) or now_s < self.not_before_s:
            return self
        return replace(self, state=State.TRIAL, detail="on trial", strikes=0)

    def leaving(self) -> "Standing":
        """It is about to stop: as doubted, for good."""
        return replace(self, state=State.DOUBTED, detail="leaving", not_before_s=math.inf)

    def after_good_answer(self) -> "Standing":
        """It answered a call, well and in time."""
        if self.state is State.TRIAL:
            return Standing(state=State.HEALTHY, struck_s=self.struck_s)
        return replace(self, strikes=0) if self.strikes else self

    def after_strike(self, now_s: float, *, since_s: float, spare: bool) -> "Standing":
        """A call since then was late, or its answer was none; `spare`: a sibling does better."""
        on_trial = self.state is State.TRIAL
        if (self.state is not State.HEALTHY and not on_trial) or since_s <= self.struck_s:
            return self
        strikes = self.strikes + 1
        if not spare or (strikes < MAX_STRIKES and not on_trial):
            return replace(self, strikes=min(strikes, MAX_STRIKES), struck_s=now_s)
        return self._out(State.DOUBTED, "late, or no good answer, again and again", now_s)

    def ejected(self, detail: str, now_s: float) -> "Standing":
        """It can't be reached, or must not be asked."""
        if self.state is State.EJECTED:
            return replace(self, detail=detail)
        if self.state is State.TRIAL:
            return self._out(State.EJECTED, detail, now_s)
        return replace(self, state=State.EJECTED, detail=detail, strikes=0)

    def _out(self, state: State, detail: str, now_s: float) -> "Standing":
        pause_s = min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2**self.n_relapses)
        return replace(
            self,
            state=state,
            detail=detail,
            strikes=0,
            n_relapses=min(self.n_relapses + 1, 8),
            not_before_s=now_s + pause_s,
            struck_s=now_s,
        )


_USABLE = frozenset({State.HEALTHY, State.TRIAL, State.DOUBTED})
