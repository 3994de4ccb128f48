"""The search for the highest rate, against servers whose answer is known by simulation."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.bench.max_rate import Goal, Trial, highest, next_rate
from shoal.bench.plan import LoadPlan
from shoal.bench.report import LoadReport, summarize
from shoal.bench.schedule import Stage
from shoal.bench.tally import Recall, Tally
from shoal.bench.target import Reply


def found(met, first, precision=0.05):
    """The answer for a server that is `met(rate)`, and how many trials it took."""
    trials = []
    while (rate := next_rate(trials, first, precision=precision)) is not None:
        trials.append(Trial(rate=rate, met=bool(met(rate))))
    return highest(trials), len(trials)


@settings(max_examples=50)
@given(first=st.floats(1, 1_000), times=st.floats(0.01, 500))
def test_a_sharp_edge_is_found_from_afar(first, times):
    """From a hundred times too high on, the answer is met, and nothing 5 % above it is."""
    capacity = first * times
    rate, n_trials = found(lambda rate: rate <= capacity, first)
    assert rate <= capacity <= rate * 1.05 * (1 + 1e-9)
    assert n_trials <= 2 * (abs(np.log2(capacity / first)) + 8)


def queue_p99_s(rate, capacity, n_calls, rng):
    """p99 of a single server that takes 1 / capacity a call, with Poisson arrivals (Lindley)."""
    gaps, service_s = rng.exponential(1 / rate, n_calls), 1 / capacity
    wait_s, waits_s = 0.0, np.empty(n_calls)
    for i, gap_s in enumerate(gaps):
        wait_s = max(0.0, wait_s + service_s - gap_s)
        waits_s[i] = wait_s + service_s
    return np.quantile(waits_s, 0.99)


def test_a_simulated_queue_s_knee_is_found(rng):
    """A queue of 200 calls a second with a p99 of 50 ms: the answer stands beside a scan of all
    rates with a hundred times the calls.
    """
    limit_s = 0.05
    scanned = [rate for rate in range(100, 200, 2)
               if queue_p99_s(rate, 200, 40_000, rng) <= limit_s]  # fmt: skip
    rate, _ = found(lambda rate: queue_p99_s(rate, 200, 2_000, rng) <= limit_s, 10.0)
    assert rate == pytest.approx(max(scanned), rel=0.1)


def test_one_bad_moment_doesn_t_halve_the_answer(rng):
    """A third of all trials fails by noise: each miss is tried again, so the edge is still near."""
    rates = [found(lambda rate: rate <= 1_000 and rng.random() > 0.2, 300)[0] for _ in range(50)]
    assert np.median([rate or 0 for rate in rates]) > 800
    assert max(rates) <= 1_000


def test_one_lucky_moment_is_no_answer():
    """The answer must be met twice: a rate met once by luck and missed twice is given up."""
    lucky = {160.0}

    def met(rate):
        if rate in lucky:
            lucky.discard(rate)
            return True
        return rate <= 100

    rate, _ = found(met, 80.0)
    assert rate <= 100
    assert not lucky


def test_a_server_that_meets_it_at_no_rate_ends_the_search():
    """It doesn't halve for ever."""
    assert found(lambda _: False, 100.0)[0] is None


def test_nothing_was_tried():
    """The search begins where it is told to."""
    assert next_rate([], 70.0) == 70.0
    assert highest([]) is None


def report(*, ok_ms=(), n_failed=0, recall=None, late_ms=0.0) -> LoadReport:
    from shoal.bench.drive import Call

    stage = Stage(rate=100.0, warmup_s=0.0, duration_s=10.0)
    tally = Tally(stage, ())
    replies = [("OK", ms) for ms in ok_ms] + [("UNAVAILABLE", 1)] * n_failed
    for number, (code, ms) in enumerate(replies):
        tally.record(Call(number=number, due_s=1.0, sent_s=1.0 + late_ms / 1e3,
                          done_s=1.0 + ms / 1e3,
                          reply=Reply(code=code)))  # fmt: skip
    if recall is not None:
        tally.recall = {0: Recall(1, recall)}
    return summarize(tally, LoadPlan(target="x:1", rate=100.0))


@pytest.mark.parametrize(
    ("goal", "seen", "fault"),
    [
        (Goal(p99_ms=50), report(ok_ms=[10] * 100), ""),
        (Goal(p99_ms=50), report(ok_ms=[10] * 98 + [60] * 2), "p99 60.0 ms"),
        (Goal(p99_ms=50), report(ok_ms=[10] * 97, n_failed=3), "3.0% not fully answered"),
        (Goal(p99_ms=50, recall=0.95), report(ok_ms=[10] * 100, recall=0.96), ""),
        (Goal(p99_ms=50, recall=0.95), report(ok_ms=[10] * 100, recall=0.94), "recall 0.940"),
        (Goal(p99_ms=50, recall=0.95), report(ok_ms=[10] * 100), "recall unknown"),
        (Goal(p99_ms=50), report(), "not fully answered"),
    ],
)
def test_a_goal_is_over_every_call(goal, seen, fault):
    """Fast failures meet no goal: 99 % of all calls due must have been answered in time."""
    assert fault in goal.fault(seen)
    assert bool(fault) == bool(goal.fault(seen))


@pytest.mark.parametrize(
    ("seen", "is_void"),
    [
        (report(ok_ms=[60] * 100), False),
        (report(ok_ms=[60] * 100, late_ms=20), True),
        (report(ok_ms=[600] * 100, late_ms=50), False),
        (report(ok_ms=[60] * 90, n_failed=10, late_ms=20), False),
    ],
)
def test_a_late_generator_excuses_no_more_than_it_was_late(seen, is_void):
    """60 ms of which 20 were the generator's say nothing about 50 ms; 600 with 50 do, and so do
    failures.
    """
    assert Goal(p99_ms=50).is_void(seen) is is_void
