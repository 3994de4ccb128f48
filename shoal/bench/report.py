"""A run's tally as figures. Pure.

Rule: nothing that was due is left out of the figures. `latency_ms` is of all calls, from the moment
each was due, and a fast refusal makes it look good; `promised_ms` doesn't let it: there, whatever
is not a full answer took for ever.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from shoal.bench.plan import LoadPlan
from shoal.bench.tally import KINDS, Series, Tally
from shoal.bench.truth import RecallFigures, recall_figures

MAX_LAG = 0.05
"""The share of the latency shown that may be the generator's own, and of time that it must idle."""
_NOISE_MS = 1.0
"""A lag that any scheduler makes: what a process takes to wake up on a core that it shares."""
_PROMISES = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99, "p999": 0.999}


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """Milliseconds of a class of calls; all 0 where there were none."""

    n: int = 0
    mean: float = 0.0
    p50: float = 0.0
    p90: float = 0.0
    p95: float = 0.0
    p99: float = 0.0
    p999: float = 0.0
    max: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Generator:
    """How the generator itself did.

    In the open loop it must send on time. In the closed loop, where nothing is due, it must be
    waiting for the server and not the server for it.

    Attributes:
        lag_ms: from when a call was due until it was sent, on average; how late the event loop woke
            up in the closed loop.
        lag_share: that as a share of the calls' mean latency.
        busy: the share of the time that its busiest worker's event loop ran, or waited for a core.
        fault: why the run's figures are the generator's and not the server's; empty where they
            are the server's.
    """

    workers: int
    lag_ms: float
    lag_share: float
    busy: float
    fault: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """A slice of the measured time, `at_s` after its start: calls due in it, answers come in it."""

    at_s: float
    n: int
    p50: float
    p99: float
    max: float
    n_failed: int
    n_degraded: int
    answers_per_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadReport:
    """What a run showed, its warm-up left out.

    `latency_ms` is of all calls, from the moment each was due; `ok_ms`, `degraded_ms`, `error_ms`
    and `timeout_ms` are its parts: full answers, answers with shards missing, failures, and calls
    whose time ran out (all failures are counted by status code in `errors`). `promised_ms` are the
    percentiles over all calls with everything but a full answer as endless; None is endless.
    `calls_per_s` and `queries_per_s` count the answers, degraded ones too, that came within the
    measured time. `late_ms` is how long after its due time a call was sent; `generator` judges it.
    `stages_ms` are the server's own times, and `outside_ms` what is between them and the caller's.
    `histogram` holds `latency_ms` in microseconds, in HdrHistogram's own form.
    """

    loop: str
    label: str
    rate: float | None
    to_rate: float | None
    clients: int | None
    arrivals: str
    batch: int
    connections: int
    duration_s: float
    n_calls: int
    calls_per_s: float
    queries_per_s: float
    errors: dict[str, int]
    latency_ms: Latency
    promised_ms: dict[str, float | None]
    ok_ms: Latency
    degraded_ms: Latency
    error_ms: Latency
    timeout_ms: Latency
    late_ms: Latency
    generator: Generator
    coverage_mean: float | None
    coverage_min: float | None
    versions: tuple[int, ...]
    recall: RecallFigures | None
    stages_ms: dict[str, Latency]
    outside_ms: float
    timeline: tuple[Moment, ...]
    histogram: str
    spectrum: tuple[tuple[float, float], ...] = field(default=())

    @property
    def failed_share(self) -> float:
        """Calls that weren't answered, as a share of all."""
        return sum(self.errors.values()) / self.n_calls if self.n_calls else 0.0

    def to_dict(self) -> dict[str, Any]:
        """The report for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "LoadReport":
        """The report that `to_dict` made."""
        parts = dict(values)
        for name in ("latency_ms", "ok_ms", "degraded_ms", "error_ms", "timeout_ms", "late_ms"):
            parts[name] = Latency(**parts[name])
        parts["stages_ms"] = {name: Latency(**v) for name, v in parts["stages_ms"].items()}
        parts["generator"] = Generator(**parts["generator"])
        parts["recall"] = parts["recall"] and RecallFigures(**parts["recall"])
        parts["timeline"] = tuple(Moment(**moment) for moment in parts["timeline"])
        parts["versions"] = tuple(parts["versions"])
        parts["spectrum"] = tuple(map(tuple, parts["spectrum"]))
        return cls(**parts)


def summarize(tally: Tally, plan: LoadPlan) -> LoadReport:
    """The figures of the calls that were due in the measured time of the tally's stage."""
    stage, duration_s = tally.stage, tally.stage.duration_s
    every = Series()
    for kind in KINDS:
        every.add(tally.latency[kind])
    in_server_s = sum(series.sum_s for series in tally.stages.values())
    n_answered = tally.sent.n
    return LoadReport(
        loop="closed" if stage.rate is None else "open",
        label=stage.label,
        rate=stage.rate,
        to_rate=stage.to_rate,
        clients=stage.clients,
        arrivals=stage.arrivals,
        batch=plan.batch,
        connections=plan.connections,
        duration_s=duration_s,
        n_calls=every.n,
        calls_per_s=tally.n_in_time / duration_s,
        queries_per_s=tally.n_in_time * plan.batch / duration_s,
        errors=dict(tally.errors),
        latency_ms=latency_of(every),
        promised_ms=promised(tally.latency["ok"], every.n),
        ok_ms=latency_of(tally.latency["ok"]),
        degraded_ms=latency_of(tally.latency["degraded"]),
        error_ms=latency_of(tally.latency["error"]),
        timeout_ms=latency_of(tally.latency["timeout"]),
        late_ms=latency_of(tally.late),
        generator=judge(tally, every, plan.workers),
        coverage_mean=tally.coverage_sum / tally.coverage_n if tally.coverage_n else None,
        coverage_min=tally.coverage_min if tally.coverage_n else None,
        versions=tuple(sorted(tally.versions)),
        recall=recall_figures(
            tally.recall.values(), k=plan.k, n_other_version=tally.n_other_version
        ),
        stages_ms={name: latency_of(series) for name, series in tally.stages.items()},
        outside_ms=max(0.0, tally.sent.sum_s - in_server_s) / n_answered * 1e3
        if n_answered
        else 0.0,
        timeline=_timeline(tally),
        histogram=every.encoded(),
        spectrum=_spectrum(every),
    )


def latency_of(series: Series) -> Latency:
    """A series in milliseconds."""
    if not series.n:
        return Latency()
    return Latency(
        n=series.n,
        mean=series.sum_s / series.n * 1e3,
        p50=series.quantile_ms(0.5),
        p90=series.quantile_ms(0.9),
        p95=series.quantile_ms(0.95),
        p99=series.quantile_ms(0.99),
        p999=series.quantile_ms(0.999),
        max=series.max_s * 1e3,
    )


def promised(full_answers: Series, n_calls: int) -> dict[str, float | None]:
    """Percentiles over `n_calls` of which all but the full answers took for ever (None)."""
    found: dict[str, float | None] = {}
    for name, share in _PROMISES.items():
        wanted = share * n_calls
        reached = 0 < wanted <= full_answers.n
        found[name] = full_answers.quantile_ms(wanted / full_answers.n) if reached else None
    return found


def judge(tally: Tally, every: Series, workers: int) -> Generator:
    """How much of the latency shown is the generator's own."""
    is_open = tally.stage.rate is not None
    series = tally.late if is_open else tally.loop_lag
    lag_s = series.sum_s / series.n if series.n else 0.0
    mean_s = every.sum_s / every.n if every.n else 0.0
    share = lag_s / mean_s if mean_s else 0.0
    fault = ""
    if is_open and share > MAX_LAG and lag_s * 1e3 > _NOISE_MS:
        fault = (
            f"the generator sent {lag_s * 1e3:.1f} ms late on average, {share:.0%} of the latency "
            f"that it shows (at most {MAX_LAG:.0%})"
        )
    elif tally.busy > 1 - MAX_LAG:
        fault = f"a worker of the generator had work for {tally.busy:.0%} of the time"
    if fault:
        fault += ", so the figures are its own; give it more --workers, or cores of its own"
    return Generator(
        workers=workers, lag_ms=lag_s * 1e3, lag_share=share, busy=tally.busy, fault=fault
    )


def _timeline(tally: Tally) -> tuple[Moment, ...]:
    return tuple(
        Moment(
            at_s=number * tally.slice_s,
            n=part.latency.n,
            p50=part.latency.quantile_ms(0.5),
            p99=part.latency.quantile_ms(0.99),
            max=part.latency.max_s * 1e3,
            n_failed=part.n_failed,
            n_degraded=part.n_degraded,
            answers_per_s=part.n_answered / tally.slice_s,
        )
        for number, part in sorted(tally.slices.items())
    )


def _spectrum(series: Series) -> tuple[tuple[float, float], ...]:
    """Points (share of calls, milliseconds) up to the last nine that the number of calls shows."""
    shares = [0.0, 0.1, 0.25, 0.5, 0.75]
    nines = 1.0
    while nines * series.n >= 1.0:
        nines /= 10
        shares += [1 - nines * 10 * part for part in (0.1, 0.05, 0.025)]
    ordered = sorted({share for share in shares if (1 - share) * series.n >= 1.0})
    return tuple((share, series.quantile_ms(share)) for share in ordered)
