"""Calls to figures, checked against counts made by hand."""

import json

import pytest

from shoal.bench.drive import Call, Reply
from shoal.bench.report import LoadReport, summarize


def call(due_s, took_s, code="OK", *, degraded=False, late_s=0.0):
    return Call(
        due_s=due_s,
        sent_s=due_s + late_s,
        done_s=due_s + took_s,
        reply=Reply(code=code, degraded=degraded),
    )


CALLS = [
    call(0.5, 9.0),  # in the warm-up, and answered after the end: in nothing
    call(0.9, 0.2),  # due in the warm-up, answered in the measured time: in the rate alone
    call(1.0, 0.010),
    call(1.5, 0.020, degraded=True),
    call(2.0, 0.030, "UNAVAILABLE"),
    call(2.5, 0.040, late_s=0.005),
    call(2.9, 5.0),  # answered after the end: in the latencies, not in the rate
    call(3.0, 0.010),  # due after the end
]


def test_no_percentile_is_above_the_longest():
    """A histogram's buckets are 0.1 % wide: their ends must not be told as a latency."""
    for took_s in (0.123_457, 1.234_567, 7.654_321):
        figures = summarize(
            [call(0.0, took_s)], warmup_s=0.0, duration_s=1.0, rate=1.0, clients=None, batch=1,
            connections=1,
        ).latency_ms  # fmt: skip
        assert figures.p50 <= figures.p999 <= figures.max == took_s * 1000


@pytest.fixture
def figures():
    return summarize(
        CALLS, warmup_s=1.0, duration_s=2.0, rate=2.0, clients=None, batch=8, connections=1
    )


def test_what_is_measured_is_what_was_due_in_the_measured_time(figures):
    """The warm-up and what comes after the end are left out; slow answers are not."""
    assert figures.n_calls == 5
    assert figures.latency_ms.n == 5
    assert figures.latency_ms.max == pytest.approx(5000)


def test_classes_are_apart(figures):
    """Full answers, degraded ones and failures have their own latencies; failures have codes."""
    assert (figures.ok_ms.n, figures.degraded_ms.n, figures.error_ms.n) == (3, 1, 1)
    assert figures.errors == {"UNAVAILABLE": 1}
    assert figures.degraded_ms.p50 == pytest.approx(20, rel=0.01)
    assert figures.late_ms.max == pytest.approx(5)


def test_the_rate_counts_answers_in_the_measured_time(figures):
    """Three calls and the one left over from the warm-up, less what came too late, over 2 s."""
    assert figures.calls_per_s == 4 / 2.0
    assert figures.queries_per_s == 8 * 4 / 2.0


def test_a_report_survives_json(figures):
    """The generator's process hands its report over as JSON."""
    assert LoadReport.from_dict(json.loads(json.dumps(figures.to_dict()))) == figures


def test_no_calls_is_all_zeros():
    """A run without calls has a report too."""
    empty = summarize([], warmup_s=0, duration_s=1, rate=1.0, clients=None, batch=1, connections=1)
    assert empty.n_calls == 0
    assert empty.latency_ms.p50 == 0
