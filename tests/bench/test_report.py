"""Calls to figures, checked against counts made by hand; merged ones against unmerged."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.bench.drive import Call
from shoal.bench.plan import LoadPlan
from shoal.bench.report import LoadReport, judge, promised, summarize
from shoal.bench.schedule import Stage
from shoal.bench.tally import Series, Tally, slice_s
from shoal.bench.tally_wire import tally_from_json, tally_to_json
from shoal.bench.target import Reply, Served

STAGE = Stage(rate=2.0, warmup_s=1.0, duration_s=2.0)
PLAN = LoadPlan(target="x:1", rate=2.0, batch=8)


def call(due_s, took_s, code="OK", *, late_s=0.0, number=0, **reply):
    return Call(
        number=number,
        due_s=due_s,
        sent_s=due_s + late_s,
        done_s=due_s + took_s,
        reply=Reply(code=code, **reply),
    )


CALLS = [
    call(0.5, 9.0),  # in the warm-up, and answered after the end: in nothing
    call(0.9, 0.2),  # due in the warm-up, answered in the measured time: in the rate alone
    call(1.0, 0.010, coverage=1.0, stages_ms=(1.0, 4.0), served=Served(index="i", version=3)),
    call(1.5, 0.020, degraded=True, coverage=0.5, stages_ms=(2.0, 6.0)),
    call(2.0, 0.030, "UNAVAILABLE"),
    call(2.1, 0.035, "DEADLINE_EXCEEDED"),
    call(2.5, 0.040, late_s=0.005, coverage=1.0, served=Served(index="i", version=4)),
    call(2.9, 5.0, coverage=1.0),  # answered after the end: in the latencies, not in the rate
    call(3.0, 0.010),  # due after the end
]


def tally_of(calls, stage=STAGE):
    tally = Tally(stage, ("queue", "search"))
    for one in calls:
        tally.record(one)
    return tally


@pytest.fixture
def figures():
    return summarize(tally_of(CALLS), PLAN)


def test_no_percentile_is_above_the_longest():
    """A histogram's buckets are 0.1 % wide: their ends must not be told as a latency."""
    for took_s in (0.123_457, 1.234_567, 7.654_321):
        found = summarize(tally_of([call(1.0, took_s)]), PLAN).latency_ms
        assert found.p50 <= found.p999 <= found.max == pytest.approx(took_s * 1000)


def test_what_is_measured_is_what_was_due_in_the_measured_time(figures):
    """The warm-up and what comes after the end are left out; slow answers are not."""
    assert figures.n_calls == 6
    assert figures.latency_ms.n == 6
    assert figures.latency_ms.max == pytest.approx(5000)


def test_classes_are_apart(figures):
    """Full answers, degraded ones, failures and time-outs have their own latencies, and codes."""
    parts = (figures.ok_ms, figures.degraded_ms, figures.error_ms, figures.timeout_ms)
    assert [part.n for part in parts] == [3, 1, 1, 1]
    assert figures.errors == {"UNAVAILABLE": 1, "DEADLINE_EXCEEDED": 1}
    assert figures.degraded_ms.p50 == pytest.approx(20, rel=0.01)
    assert figures.timeout_ms.p50 == pytest.approx(35, rel=0.01)
    assert figures.late_ms.max == pytest.approx(5)
    assert figures.failed_share == 2 / 6


def test_the_rate_counts_answers_in_the_measured_time(figures):
    """Three calls and the one left over from the warm-up, less what came too late, over 2 s."""
    assert figures.calls_per_s == 4 / 2.0
    assert figures.queries_per_s == 8 * 4 / 2.0


def test_what_the_server_says_is_told(figures):
    """Coverage and stages are of answers alone; a reload in the middle shows both versions."""
    assert figures.coverage_mean == pytest.approx((1 + 0.5 + 1 + 1) / 4)
    assert figures.coverage_min == 0.5
    assert figures.versions == (3, 4)
    assert {name: found.n for name, found in figures.stages_ms.items()} == {"queue": 2, "search": 2}
    assert figures.stages_ms["search"].mean == pytest.approx(5.0)


def test_the_timeline_holds_every_call(figures):
    """Slices by due time add up to the calls, and by answer to the rate."""
    assert sum(moment.n for moment in figures.timeline) == figures.n_calls
    assert sum(moment.n_failed for moment in figures.timeline) == 2
    answered = sum(moment.answers_per_s for moment in figures.timeline) * slice_s(STAGE)
    assert answered == pytest.approx(4)


def test_a_refusal_promises_nothing():
    """Ninety fast refusals beside ten slow answers: a p99 over all calls would look fast, but no
    more than a tenth was ever answered.
    """
    calls = [call(1.0, 0.001, "RESOURCE_EXHAUSTED")] * 90 + [call(1.0, 0.5)] * 10
    found = summarize(tally_of(calls), PLAN)
    assert found.latency_ms.p50 == pytest.approx(1, rel=0.01)
    assert found.promised_ms == dict.fromkeys(found.promised_ms)


def test_a_promise_counts_what_failed_as_endless():
    """Of 100 calls 98 were answered, in 1 to 98 ms: the 98th takes 98 ms, the 99th for ever."""
    full = Series()
    for ms in range(1, 99):
        full.record(ms / 1000)
    found = promised(full, 100)
    assert found["p50"] == pytest.approx(50, rel=0.001)
    assert found["p95"] == pytest.approx(95, rel=0.001)
    assert found["p99"] is None


def test_a_report_survives_json(figures):
    """A run is kept as JSON, and compared later."""
    assert LoadReport.from_dict(json.loads(json.dumps(figures.to_dict()))) == figures


def test_no_calls_is_all_zeros():
    """A run without calls has a report too."""
    empty = summarize(tally_of([]), PLAN)
    assert empty.n_calls == 0
    assert empty.latency_ms.p50 == 0
    assert empty.coverage_mean is None
    assert empty.recall is None


@settings(max_examples=20)
@given(st.lists(st.tuples(st.integers(0, 3), st.floats(1e-5, 30)), max_size=60))
def test_merged_workers_are_one_worker(drawn):
    """Percentiles are made of merged counts: three workers' report, through JSON, is that of one
    which saw all the calls.
    """
    codes = ("OK", "UNAVAILABLE", "DEADLINE_EXCEEDED", "OK")
    calls = [call(1.0 + i / 40, took_s, codes[kind], degraded=kind == 3, stages_ms=(took_s, 1.0))
             for i, (kind, took_s) in enumerate(drawn)]  # fmt: skip
    workers = [tally_of(calls[w::3]) for w in range(3)]
    merged, *others = (tally_from_json(json.loads(json.dumps(tally_to_json(w)))) for w in workers)
    for other in others:
        merged.add(other)
    together, alone = summarize(merged, PLAN), summarize(tally_of(calls), PLAN)
    assert together.latency_ms.p99 == alone.latency_ms.p99
    assert together.histogram == alone.histogram
    assert together.errors == alone.errors
    assert [(m.at_s, m.n, m.p99, m.n_failed) for m in together.timeline] == [
        (m.at_s, m.n, m.p99, m.n_failed) for m in alone.timeline
    ]


def test_percentiles_are_within_a_thousandth(rng):
    """Three digits of an hdrhistogram against sorting all the values."""
    values = rng.lognormal(-5, 1, 5_000)
    series = Series()
    for value in values:
        series.record(float(value))
    for share in (0.5, 0.9, 0.99, 0.999):
        exact = np.quantile(values, share, method="inverted_cdf") * 1e3
        assert series.quantile_ms(share) == pytest.approx(exact, rel=1.5e-3)


@pytest.mark.parametrize(
    ("late_s", "took_s", "is_faulty"),
    [(0.004, 0.1, False), (0.006, 0.1, True), (0.0006, 0.002, False)],
)
def test_a_lag_past_a_twentieth_fails_the_run(late_s, took_s, is_faulty):
    """5 % of the latency shown may be the generator's own; what a scheduler takes to wake a process
    up, half a millisecond, is nobody's fault.
    """
    found = summarize(tally_of([call(1.0, took_s, late_s=late_s)] * 20), PLAN)
    assert bool(found.generator.fault) is is_faulty
    assert found.generator.lag_share == pytest.approx(late_s / took_s)


def test_a_worker_that_never_idles_fails_a_closed_loop():
    """Nothing is due in a closed loop; a generator that has work all the time is the bottleneck."""
    tally = Tally(Stage(clients=4), ())
    every = Series()
    tally.busy = 0.94
    assert not judge(tally, every, 1).fault
    tally.busy = 0.97
    assert "97%" in judge(tally, every, 1).fault
