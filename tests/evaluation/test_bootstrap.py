"""Intervals by bootstrap: seeded, and as wide as the theory says."""

import numpy as np
import pytest
from scipy.stats import norm

from shoal.evaluation.bootstrap import intervals
from shoal.evaluation.compare import compare


def test_an_interval_is_that_of_the_normal_theory(rng):
    """For a mean of 2,000 independent values the bootstrap tends to mean +- 1.96 s / sqrt(n)."""
    values = (rng.random(2_000) < 0.7).astype(float)
    low, high = intervals({"a": values}, n_resamples=4_000)["a"]
    half = norm.ppf(0.975) * values.std() / np.sqrt(len(values))
    assert low == pytest.approx(values.mean() - half, abs=0.0015)
    assert high == pytest.approx(values.mean() + half, abs=0.0015)


def test_it_covers_the_truth_as_often_as_it_says():
    """Of 300 samples of a population, some 95 % of the intervals hold its mean."""
    rng = np.random.default_rng(4)
    samples = {str(i): (rng.random(150) < 0.6).astype(float) for i in range(300)}
    covered = [low <= 0.6 <= high for low, high in intervals(samples).values()]
    assert 0.90 <= np.mean(covered) <= 0.99


def test_the_same_seed_gives_the_same_interval(rng):
    """Figures in a report must come out again; another metric beside it changes nothing."""
    values = rng.random(50)
    alone = intervals({"a": values})["a"]
    assert intervals({"a": values, "b": 1 - values})["a"] == pytest.approx(alone)
    assert intervals({"a": values}, seed=1)["a"] != alone


def test_a_sure_thing_has_no_width():
    """Where every question agrees there is nothing to draw."""
    assert intervals({"a": np.ones(20)})["a"] == (1.0, 1.0)
    assert intervals({}) == {}


def test_a_difference_is_judged_question_by_question(rng):
    """Two searches find and miss much the same: drawn in pairs, their difference is far surer than
    two figures drawn apart, and its interval is that of the gains' own mean.
    """
    first = (rng.random(1_000) < 0.6).astype(float)
    second = np.where(rng.random(1_000) < 0.05, 1 - first, first)
    gains = first - second
    low, high = compare("RR", [f"q{i}" for i in range(1_000)], first, second).interval
    half = norm.ppf(0.975) * gains.std() / np.sqrt(len(gains))
    assert low == pytest.approx(gains.mean() - half, abs=0.003)
    assert high == pytest.approx(gains.mean() + half, abs=0.003)
    apart = norm.ppf(0.975) * np.sqrt((first.var() + second.var()) / len(gains))
    assert (high - low) / 2 < apart / 2


def test_a_comparison_names_who_wins_what():
    """Wins and losses by question, the largest difference first; the rest are ties."""
    found = compare(
        "RR", ["a", "b", "c", "d"], np.array([1, 0.5, 0, 0.2]), np.array([0.5, 0.5, 1, 0])
    )
    assert found.wins == ("a", "d")
    assert (found.losses, found.n_ties) == (("c",), 1)
    assert found.difference == pytest.approx(-0.075)
    assert found.interval[0] <= found.difference <= found.interval[1]
