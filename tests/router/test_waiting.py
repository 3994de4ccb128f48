"""How long a missing shard is waited for."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.quantile import LatencyWindow
from router.topology import IndexVersion
from router.waiting import UNKNOWN, Goal, patience


def goal(min_coverage: float, n_live=(5, 5, 5, 5), **factors: float) -> Goal:
    return Goal(min_coverage=min_coverage, n_live_by_shard=n_live, **factors)


@pytest.mark.parametrize(
    ("n_asked", "n_pending", "factor"),
    # by hand: 10 shards, 0.5 may be missing: m = 4; min + (max - min) * (pending - 1) / 4
    [(10, 5, 0.6), (10, 4, 0.475), (10, 3, 0.35), (10, 2, 0.225), (10, 1, 0.1), (2, 1, 0.1)],
)
def test_the_wait_is_vespas(n_asked, n_pending, factor):
    """Between the two factors, in proportion to the shards missing beyond one."""
    wanted = goal(0.5, min_wait_factor=0.1, max_wait_factor=0.6)
    assert wanted.wait_factor(n_asked=n_asked, n_pending=n_pending) == pytest.approx(factor)


@given(st.floats(0, 1), st.integers(1, 300), st.floats(0, 1), st.floats(0, 1), st.data())
def test_the_wait_is_within_its_factors_and_shrinks(coverage, n_asked, one, other, data):
    """Whatever the shards: never outside [min, max], never longer for fewer missing."""
    least, most = sorted((one, other))
    wanted = goal(coverage, min_wait_factor=least, max_wait_factor=most)
    n_pending = data.draw(st.integers(1, n_asked))
    factor = wanted.wait_factor(n_asked=n_asked, n_pending=n_pending)
    assert least <= factor <= most + 1e-12
    assert wanted.wait_factor(n_asked=n_asked, n_pending=max(1, n_pending - 1)) <= factor


@given(st.lists(st.integers(0, 1_000), min_size=1, max_size=8), st.data())
def test_a_coverage_that_is_told_is_a_coverage_that_is_reached(n_live, data):
    """The goal and the answer's coverage agree to the last bit, at 0.0, at 1.0 and between."""
    some = data.draw(st.sets(st.integers(0, len(n_live) - 1)))
    version = IndexVersion.__new__(IndexVersion)
    version.__dict__.update(n_live_by_shard=tuple(n_live), n_live=sum(n_live))
    told = version.coverage(some)
    n_found = sum(n_live[shard] for shard in some)
    for wanted in (0.0, told, math.nextafter(told, 2.0), 1.0):
        assert goal(wanted, tuple(n_live)).reached_by(n_found) == (told >= wanted)


def test_hedging_waits_for_the_p95_and_lateness_for_four_of_them():
    """Nothing is known at first: then no hedge."""
    window = LatencyWindow(10.0)
    assert patience([window], 0.0) is UNKNOWN
    assert UNKNOWN.hedge_after_s == UNKNOWN.late_after_s == math.inf
    for _ in range(100):
        window.observe(0.05, 0.0)
    known = patience([window], 5.0)
    assert 0.05 <= known.hedge_after_s <= 0.055
    assert known.late_after_s == 4 * known.hedge_after_s
    quick = LatencyWindow(10.0)
    for _ in range(100):
        quick.observe(0.0001, 0.0)
    known = patience([quick], 5.0)
    assert (known.hedge_after_s, known.late_after_s) == (0.002, 0.1)


def test_a_slow_replica_is_not_its_own_measure():
    """Slow from its first call on, it is hedged after its sibling's p95, unless that is as slow."""
    slow, fine, new = LatencyWindow(10.0), LatencyWindow(10.0), LatencyWindow(10.0)
    for _ in range(20):
        slow.observe(0.03, 0.0)
        fine.observe(0.003, 0.0)
    assert patience([slow, fine], 1.0) == patience([fine, fine], 1.0) == patience([fine], 1.0)
    assert patience([slow, new], 1.0) == patience([slow, slow], 1.0) == patience([slow], 1.0)
    assert patience([new, new], 1.0) is patience([], 1.0) is UNKNOWN
    assert patience([slow, fine], 1.0).hedge_after_s < 0.004
