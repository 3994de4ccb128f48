"""A worker's calls as histograms, and several workers' as one. Pure, but for hdrhistogram.

Rule: what is told of a run is merged from counts, never from percentiles: the p99 of two workers is
not the mean of their p99s. Every call of the measured time lands in exactly one series: a full
answer, one with shards missing, an error, a time-out.
"""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Literal, Self

from hdrh.histogram import HdrHistogram

from shoal.bench.drive import Call
from shoal.bench.schedule import Stage
from shoal.bench.target import OK, TIMEOUT, Reply, Served

Kind = Literal["ok", "degraded", "error", "timeout"]
KINDS: tuple[Kind, ...] = ("ok", "degraded", "error", "timeout")

_HIGHEST_US = 3_600_000_000
_N_SLICES = 60
_CALLS_A_SLICE = 20
_NICE_S = (0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0)


def kind_of(reply: Reply) -> Kind:
    """The series that a reply belongs to."""
    if reply.code == OK:
        return "degraded" if reply.degraded else "ok"
    return "timeout" if reply.code == TIMEOUT else "error"


def slice_s(stage: Stage) -> float:
    """How long a slice of the timeline is: some sixty a run, longer where calls are few."""
    wanted_s = stage.duration_s / _N_SLICES
    if stage.rate is not None:
        wanted_s = max(wanted_s, min(stage.duration_s / 5, _CALLS_A_SLICE / stage.rate))
    return next((s for s in _NICE_S if wanted_s <= s), _NICE_S[-1])


class Series:
    """Durations: an hdrhistogram in microseconds, with the exact sum and maximum beside it."""

    __slots__ = ("digits", "histogram", "max_s", "n", "sum_s")

    def __init__(self, digits: int = 3) -> None:
        self.histogram = HdrHistogram(1, _HIGHEST_US, digits)
        self.digits = digits
        self.n, self.sum_s, self.max_s = 0, 0.0, 0.0

    def record(self, seconds: float) -> None:
        """Counts one."""
        self.histogram.record_value(min(_HIGHEST_US, max(1, round(seconds * 1e6))))
        self.n += 1
        self.sum_s += seconds
        self.max_s = max(self.max_s, seconds)

    def add(self, other: "Series") -> None:
        """Takes in what another counted."""
        self.histogram.add(other.histogram)
        self.n += other.n
        self.sum_s += other.sum_s
        self.max_s = max(self.max_s, other.max_s)

    def quantile_ms(self, share: float) -> float:
        """The milliseconds that this share doesn't exceed; 0 where there are none."""
        if not self.n:
            return 0.0
        # a bucket's upper end may lie above all that was measured
        return min(float(self.histogram.get_value_at_percentile(100 * share)) / 1e3,
                   self.max_s * 1e3)  # fmt: skip

    def encoded(self) -> str:
        """The histogram in HdrHistogram's own compressed form, which its tools read."""
        encoded: bytes = self.histogram.encode()
        return encoded.decode("ascii")

    def to_json(self) -> list[Any]:
        """The series for JSON."""
        return [self.encoded(), self.digits, self.n, self.sum_s, self.max_s]

    @classmethod
    def from_json(cls, value: list[Any]) -> Self:
        """The series that `to_json` wrote."""
        encoded, digits, n, sum_s, max_s = value
        series = cls(digits)
        series.histogram.decode_and_add(encoded.encode("ascii"))
        series.n, series.sum_s, series.max_s = n, sum_s, max_s
        return series


@dataclass(slots=True)
class Slice:
    """A part of the measured time: calls that were due in it, and answers that came in it."""

    latency: Series = field(default_factory=lambda: Series(2))
    n_failed: int = 0
    n_degraded: int = 0
    n_answered: int = 0


@dataclass(slots=True)
class Recall:
    """Of one request's answers: how many were compared, and the sum of their recalls."""

    n: int = 0
    total: float = 0.0


class Tally:
    """Counts the calls of one stage; the warm-up's are in nothing but the rate.

    Args:
        stage: what was asked for.
        stages: the target's own stages.
    """

    def __init__(self, stage: Stage, stages: tuple[str, ...]) -> None:
        self.stage = stage
        self.latency: dict[Kind, Series] = {kind: Series() for kind in KINDS}
        self.late = Series()
        self.sent = Series()
        self.loop_lag = Series()
        self.stages: dict[str, Series] = {name: Series() for name in stages}
        self.errors: Counter[str] = Counter()
        self.n_sent, self.n_in_time = 0, 0
        self.coverage_sum, self.coverage_n, self.coverage_min = 0.0, 0, 1.0
        self.versions: set[int] = set()
        self.recall: dict[int, Recall] = {}
        self.n_other_version = 0
        self.busy = 0.0
        self.slice_s = slice_s(stage)
        self.slices: dict[int, Slice] = {}

    def record(self, call: Call) -> None:
        """Counts one call."""
        self.n_sent += 1
        begin_s, end_s = self.stage.warmup_s, self.stage.total_s
        # by the time of the answer, not of the sending: what is still under way at the end of the
        # warm-up makes up for what is under way at the end of the run
        if call.reply.code == OK and begin_s <= call.done_s < end_s:
            self.n_in_time += 1
            self._slice_at(call.done_s).n_answered += 1
        if not begin_s <= call.due_s < end_s:
            return
        kind = kind_of(call.reply)
        latency_s = call.done_s - call.due_s
        self.latency[kind].record(latency_s)
        self.late.record(call.sent_s - call.due_s)
        of_time = self._slice_at(call.due_s)
        of_time.latency.record(latency_s)
        of_time.n_degraded += kind == "degraded"
        if call.reply.code != OK:
            self.errors[call.reply.code] += 1
            of_time.n_failed += 1
        else:
            self._record_answer(call)

    def compare(self, request: int, recall: float | None) -> None:
        """Counts one answer's recall; None is an answer of another version than the truth's."""
        if recall is None:
            self.n_other_version += 1
            return
        of_request = self.recall.setdefault(request, Recall())
        of_request.n += 1
        of_request.total += recall

    def add(self, other: "Tally") -> None:
        """Takes in what another worker counted of the same stage."""
        for kind, series in other.latency.items():
            self.latency[kind].add(series)
        for name, series in other.stages.items():
            self.stages.setdefault(name, Series()).add(series)
        for mine, theirs in ((self.late, other.late), (self.sent, other.sent),
                             (self.loop_lag, other.loop_lag)):  # fmt: skip
            mine.add(theirs)
        self.errors += other.errors
        self.n_sent += other.n_sent
        self.n_in_time += other.n_in_time
        self.coverage_sum += other.coverage_sum
        self.coverage_n += other.coverage_n
        self.coverage_min = min(self.coverage_min, other.coverage_min)
        self.versions |= other.versions
        for request, recall in other.recall.items():
            of_request = self.recall.setdefault(request, Recall())
            of_request.n += recall.n
            of_request.total += recall.total
        self.n_other_version += other.n_other_version
        self.busy = max(self.busy, other.busy)
        for number, part in other.slices.items():
            _add_slice(self.slices.setdefault(number, Slice()), part)

    def _record_answer(self, call: Call) -> None:
        reply = call.reply
        self.sent.record(call.done_s - call.sent_s)
        for series, took_ms in zip(self.stages.values(), reply.stages_ms, strict=False):
            series.record(took_ms / 1e3)
        if reply.coverage is not None:
            self.coverage_sum += reply.coverage
            self.coverage_n += 1
            self.coverage_min = min(self.coverage_min, reply.coverage)
        if reply.served != Served():
            self.versions.add(reply.served.version)

    def _slice_at(self, at_s: float) -> Slice:
        number = int((at_s - self.stage.warmup_s) / self.slice_s)
        found = self.slices.get(number)
        if found is None:
            found = self.slices[number] = Slice()
        return found


def _add_slice(mine: Slice, theirs: Slice) -> None:
    mine.latency.add(theirs.latency)
    mine.n_failed += theirs.n_failed
    mine.n_degraded += theirs.n_degraded
    mine.n_answered += theirs.n_answered
