"""The highest rate that a target sustains, by bisection. Pure: what to try next, from what was met.

Rule: noise makes a run worse and hardly ever better, so a rate is given up only after it failed
twice; but the answer must have been met twice, because it was the luckiest of several.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from shoal.bench.record import MaxRate
from shoal.bench.report import LoadReport

PRECISION = 0.05
_MOST_VOID = 3
_MAX_TRIALS = 40
_LEAST = 1 / 256
"""Of the first rate: a goal that even this misses is none that a rate could keep."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """What must hold: 99 % of all calls that were due fully answered within `p99_ms`; and recall.

    `recall` is recall@k against exact search, in the same run; None asks for none.
    """

    p99_ms: float
    recall: float | None = None

    def fault(self, report: LoadReport) -> str:
        """What of it a run missed, in a few words; empty where it met it."""
        p99_ms = report.promised_ms["p99"]
        if p99_ms is None:
            return f"{1 - report.ok_ms.n / max(1, report.n_calls):.1%} not fully answered"
        if p99_ms > self.p99_ms:
            return f"p99 {p99_ms:.1f} ms"
        if self.recall is None:
            return ""
        if report.recall is None:
            return "recall unknown"
        return f"recall {report.recall.mean:.3f}" if report.recall.mean < self.recall else ""

    def is_void(self, report: LoadReport) -> bool:
        """Whether a run that missed it may have missed it by its generator's fault alone.

        On an overloaded machine the generator is late as well; but a server that failed, or whose
        p99 is past the limit by more than the generator's own, gave out by itself.
        """
        p99_ms = report.promised_ms["p99"]
        if not report.generator.fault or p99_ms is None:
            return False
        return p99_ms - report.late_ms.p99 <= self.p99_ms


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One run at a rate, and whether it met the goal."""

    rate: float
    met: bool


def next_rate(
    trials: Sequence[Trial], first: float, *, precision: float = PRECISION
) -> float | None:
    """The rate to try next, from `first` on; None when the search is over.

    It doubles or halves until the answer lies between two rates, then halves the gap until they
    are within `precision` of each other.
    """
    if not trials or len(trials) >= _MAX_TRIALS:
        return None if trials else first
    n_met, n_unmet = _counts(trials)
    again = next((rate for rate, n in n_unmet.items() if n == 1 and not n_met[rate]), None)
    if again is not None:
        return again
    low, high = _bracket(trials)
    if high is None:
        assert low is not None
        return readable(2 * low)
    if low is None:
        return readable(high / 2) if high / 2 >= first * _LEAST else None
    if high > low * (1 + precision):
        return readable((low + high) / 2)
    return low if n_met[low] < 2 else None


def readable(rate: float) -> float:
    """`rate` with three digits: nobody asks for 40.21875 calls a second."""
    return float(f"{rate:.3g}")


def highest(trials: Sequence[Trial]) -> float | None:
    """The highest rate that was met, below every rate that was given up; None where none was."""
    return _bracket(trials)[0] if trials else None


def _bracket(trials: Sequence[Trial]) -> tuple[float | None, float | None]:
    n_met, n_unmet = _counts(trials)
    high = min((rate for rate, n in n_unmet.items() if n >= 2), default=None)
    met = (rate for rate in n_met if high is None or rate < high)
    return max(met, default=None), high


def _counts(trials: Sequence[Trial]) -> tuple[Counter[float], Counter[float]]:
    return (
        Counter(trial.rate for trial in trials if trial.met),
        Counter(trial.rate for trial in trials if not trial.met),
    )


class Search:
    """A search as it goes: which rate is next, what the trials were, and what they come to.

    `ended` is why it ended early; empty where it didn't.
    """

    def __init__(self, goal: Goal, first: float, *, precision: float = PRECISION) -> None:
        self.ended = ""
        self._goal = goal
        self._first = first
        self._precision = precision
        self._trials: list[Trial] = []
        self._told: list[tuple[float, str]] = []
        self._best: dict[float, LoadReport] = {}
        self._n_void: Counter[float] = Counter()

    @property
    def n_trials(self) -> int:
        """Trials so far, those too that measured the generator alone."""
        return len(self._told)

    def next_rate(self) -> float | None:
        """The rate to try; None when the search is over."""
        if self.ended:
            return None
        return next_rate(self._trials, self._first, precision=self._precision)

    def learn(self, rate: float, report: LoadReport) -> str:
        """Takes in a trial at `rate`; returns what it missed of the goal, "" where it met it.

        A trial that measured the generator counts for nothing: another may not, but it won't be
        tried for ever.
        """
        missed = self._goal.fault(report)
        self._told.append((rate, missed))
        if missed and self._goal.is_void(report):
            self._n_void[rate] += 1
            if self._n_void[rate] >= _MOST_VOID:
                self.ended = f"at {rate:g}/s {report.generator.fault}"
            return missed
        self._trials.append(Trial(rate=rate, met=not missed))
        if rate not in self._best or not missed:
            self._best[rate] = report
        return missed

    @property
    def kept(self) -> tuple[LoadReport, ...]:
        """One report a rate, the best of its trials, by rate."""
        return tuple(report for _, report in sorted(self._best.items()))

    @property
    def found(self) -> MaxRate:
        """The answer, as far as it is known."""
        rate = highest(self._trials)
        why = self.ended
        if rate is None and not why:
            last, missed = self._told[-1] if self._told else (self._first, "nothing was tried")
            why = f"no rate met it: {missed} at {last:g}/s"
        return MaxRate(
            p99_ms=self._goal.p99_ms,
            recall=self._goal.recall,
            calls_per_s=rate,
            why=why,
            trials=tuple(self._told),
        )
