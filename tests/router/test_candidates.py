"""Candidates by shard: the exact binomial tail is the oracle."""

from fractions import Fraction
from math import comb

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.candidates import (
    MAX_CANDIDATES,
    MISS_PROBABILITY,
    shard_candidates,
    wanted_candidates,
)


def tail(n: int, share: Fraction, count: int) -> Fraction:
    """P(binomial(n, share) > count), exactly."""
    return sum(
        (comb(n, i) * share**i * (1 - share) ** (n - i) for i in range(count + 1, n + 1)),
        start=Fraction(0),
    )


@settings(max_examples=40)
@given(st.integers(1, 120), st.integers(1, 999))
def test_a_share_is_the_smallest_that_is_rarely_exceeded(n, live):
    """Miss probability at most 1e-4, and one less would miss more often."""
    count = shard_candidates(n, live * 1_000, 1_000_000)
    share = Fraction(live, 1_000)
    slack = Fraction(1, 10**12)  # of the floating-point sum
    assert tail(n, share, count) <= Fraction(MISS_PROBABILITY) + slack
    if count > 1:
        assert tail(n, share, count - 1) > Fraction(MISS_PROBABILITY) - slack


@pytest.mark.parametrize(("n", "n_shards"), [(100, 4), (1_000, 4), (2_048, 8), (100, 64)])
def test_shares_rarely_miss_a_candidate(n, n_shards):
    """Drawn at random, no shard holds more of the best n than it is asked for, nearly ever."""
    rng = np.random.default_rng(1)
    counts = rng.multinomial(n, [1 / n_shards] * n_shards, size=4_000)
    share = shard_candidates(n, 1_000_000 // n_shards, 1_000_000)
    assert (counts.max(axis=1) > share).mean() <= 1e-3 * max(1, n_shards / 8)


def test_four_shards_rescore_far_less_than_four_times_as_much():
    """Each of 4 shards asked for everything would be 4 times n; the shares sum to far less."""
    for n in (100, 500, 1_000, 2_048):
        assert 4 * shard_candidates(n, 250_000, 1_000_000) < 1.9 * n
    assert 4 * shard_candidates(2_048, 250_000, 1_000_000) < 1.3 * 2_048


@given(st.integers(1, 2_047), st.integers(1, 10_000), st.integers(1, 10_000))
def test_shares_stay_in_bounds_and_grow(n, mine, others):
    """1 to n, no more than the shard holds; more candidates or a larger shard never mean fewer."""
    count = shard_candidates(n, mine, mine + others)
    assert 1 <= count <= min(n, mine)
    assert shard_candidates(n + 1, mine, mine + others) >= count
    assert shard_candidates(n, mine + 1, mine + others + 1) >= count or mine + others <= n


@pytest.mark.parametrize(
    ("n", "mine", "all_", "count"),
    [
        (100, 1_000, 1_000, 100),  # one shard: everything
        (100, 30, 30, 30),  # it holds less
        (100, 40, 90, 40),  # more candidates than passages: all there are
        (100, 0, 1_000, 1),  # an empty shard
        (100, 0, 0, 1),  # an empty index
        (1, 500, 1_000, 1),
        (2_048, 1, 1_000_000, 1),
    ],
)
def test_edges(n, mine, all_, count):
    """Empty, tiny and lone shards."""
    assert shard_candidates(n, mine, all_) == count


@pytest.mark.parametrize(
    ("k", "oversample", "count"),
    [(10, 10, 100), (5, 10, 100), (50, 10, 500), (1_000, 10, 2_048), (10, 0, 0), (33, 3.5, 116),
     (1, 1, 100), (1_000, 1, 1_000), (1_000, 2_048, 2_048)],
)  # fmt: skip
def test_wanted_candidates(k, oversample, count):
    """max(100, k x oversample), rounded up, at most 2,048; 0 for 0."""
    assert wanted_candidates(k, oversample) == count
    assert count <= MAX_CANDIDATES
