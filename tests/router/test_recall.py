"""Recall against exact search, its interval, and the share of CPU time that measuring keeps to."""

import math
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.cpu_share import CpuShare
from router.exact_search import CALL_S, cost_s
from router.recall import NO_SCORE, estimate, exact_scores_of, recalls_at
from router.recall_window import MAX_AGE_S, MAX_SAMPLES, RecallWindow
from router.reservoir import Reservoir


def column(values, dtype):
    return np.array(values, dtype=dtype)


def test_a_passage_equal_to_the_kth_is_as_good_as_it():
    """Which of several equal passages exact search names first is chance: it must cost nothing."""
    scores = np.array([[9, 8, 7, 7], [9, 8, 7, 6], [9, 8, NO_SCORE, NO_SCORE]], dtype=np.float32)
    kth = np.array([7, 7, 7], dtype=np.float32)
    assert recalls_at(scores, kth, 4).tolist() == [1.0, 0.75, 0.5]


def test_hits_count_by_their_exact_scores():
    """Codes' scores say nothing beside exact ones: where nobody knows a hit's, it is not found."""
    ordinals, told = column([4, 5, 6], np.int64), column([3.0, 2.0, 1.0], np.float32)
    exact = column([6, 4], np.int64), column([0.5, 0.25], np.float32)
    by_codes = exact_scores_of(ordinals, told, is_exact=False, exact=exact)
    assert by_codes.tolist() == [0.25, -math.inf, 0.5]
    rescored = exact_scores_of(ordinals, told, is_exact=True, exact=exact)
    assert rescored.tolist() == [0.25, 2.0, 0.5]


@given(st.lists(st.integers(0, 10).map(lambda tenths: tenths / 10), min_size=1, max_size=60))
def test_the_interval_holds_the_mean_and_is_never_surer_than_its_mirror(recalls):
    """Low to high lies within 0 to 1 around the mean; missing mirrors finding."""
    told = estimate(np.array(recalls))
    assert 0.0 <= told.low <= told.recall + 1e-12
    assert told.recall - 1e-12 <= told.high <= 1.0
    mirrored = estimate(1.0 - np.array(recalls))
    assert mirrored.low == pytest.approx(1.0 - told.high)


def test_a_perfect_sample_is_no_proof_of_perfection():
    """Of 20 queries that found all, one in ten could still miss."""
    assert estimate(np.ones(20)).low < 0.9
    assert estimate(np.ones(1_000)).low == pytest.approx(1.0 - 2.96 / 1_001)


@pytest.mark.parametrize("n", [10, 100, 1_000])
def test_the_interval_covers_what_it_says(n, rng):
    """19 of 20 intervals hold the true mean, also where most queries find all and some nothing:
    the plain one, without the imagined query, holds it in 1 of 10 for n = 10.
    """
    n_trials = 1_000
    for true, draw in (
        (0.95, rng.binomial(10, 0.95, (n_trials, n)) / 10),
        (0.95, (rng.random((n_trials, n)) < 0.95).astype(float)),
        (0.99, (rng.random((n_trials, n)) < 0.99).astype(float)),
    ):
        held = [told.low <= true <= told.high for told in map(estimate, draw)]
        assert np.mean(held) > 0.93


searches = st.lists(
    st.tuples(
        st.floats(0.0, 5.0, allow_nan=False),  # time that passed before somebody asked
        st.floats(0.0, 2.0, allow_nan=False),  # CPU seconds it took
        st.floats(0.0, 2.0, allow_nan=False),  # seconds it took
    ),
    max_size=60,
)


@given(searches, st.sampled_from([0.001, 0.01, 0.25, 1.0, 3.0]), st.data())
def test_over_any_stretch_of_time_the_share_is_kept(pieces, rate, data):
    """What was begun within it took at most the share of it, and one search more."""
    share, now_s = CpuShare(rate), 0.0
    begun = []
    for passed_s, cpu_s, took_s in pieces:
        now_s += passed_s
        now_s += share.wait_s(now_s)
        begun.append((now_s, cpu_s))
        share = share.after(now_s, cpu_s)
        now_s += took_s
    first = data.draw(st.integers(0, max(0, len(begun) - 1)))
    stretch = begun[first : data.draw(st.integers(first, len(begun)))]
    if stretch:
        elapsed_s = stretch[-1][0] - stretch[0][0]
        spent_s = sum(cpu_s for _, cpu_s in stretch)
        largest_s = max(cpu_s for _, cpu_s in stretch)
        assert spent_s <= rate * elapsed_s + largest_s + 1e-6


def test_time_without_work_saves_nothing_up():
    """After an idle hour there is no burst: queries would meet it."""
    share = CpuShare(0.01).after(3_600.0, 0.05)
    assert share.wait_s(3_600.0) == pytest.approx(5.0)
    assert share.not_before(3_700.0).wait_s(3_600.0) == pytest.approx(100.0)
    assert share.not_before(3_601.0) == share


@pytest.mark.parametrize("told_s", [math.nan, -1.0, 1e9, math.inf])
def test_a_shard_that_tells_nonsense_is_charged_all_of_the_time(told_s):
    """No lie makes a search cheaper than nothing, nor dearer than the time it was waited for."""
    assert cost_s(told_s, 0.25) == pytest.approx(0.25 + CALL_S)
    assert cost_s(0.125, 0.25) == pytest.approx(0.125 + CALL_S)


def test_a_window_holds_a_thousand_of_an_hour_of_one_version():
    """Old samples tell of old queries, and other versions of other passages."""
    window = RecallWindow(version=1)
    for number in range(MAX_SAMPLES + 50):
        window = window.after(float(number), 1.0 if number % 2 else 0.5, version=1)
    told = window.estimate(MAX_SAMPLES + 50.0)
    assert told is not None
    assert (told.n, told.recall) == (MAX_SAMPLES, pytest.approx(0.75))
    later = window.estimate(MAX_AGE_S + MAX_SAMPLES + 47.5)
    assert later is not None
    assert later.n == 2
    assert window.estimate(2 * MAX_AGE_S) is None
    moved = window.after(5_000.0, 0.25, version=2).estimate(5_000.0)
    assert moved is not None
    assert (moved.n, moved.recall) == (1, 0.25)


def test_every_query_between_two_measurements_is_as_likely():
    """One of twenty that come in calls of 1 to 8: neither the first nor the last, nor the alone."""
    calls = [1, 3, 8, 2, 6]
    counts = dict.fromkeys([(call, n) for call, size in enumerate(calls) for n in range(size)], 0)
    reservoir: Reservoir[tuple[int, int]] = Reservoir(random.Random(1))
    for _ in range(4_000):
        for call, size in enumerate(calls):
            reservoir.offer(size, lambda number, call=call: (call, number))
        kept = reservoir.take()
        assert kept is not None
        counts[kept] += 1
        assert reservoir.take() is None
    assert max(abs(n - 200) for n in counts.values()) < 70  # five standard deviations
