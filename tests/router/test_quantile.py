"""The p95 that hedging goes by."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from router.quantile import LatencyWindow

LATENCIES = st.lists(st.floats(2e-5, 100.0), min_size=32, max_size=300)


@given(LATENCIES)
def test_the_p95_is_that_of_what_was_observed(latencies):
    """Never below the true one, and at most a bucket (9 %) above it."""
    window = LatencyWindow(10.0)
    for latency_s in latencies:
        window.observe(latency_s, 0.0)
    true = np.quantile(latencies, 0.95, method="inverted_cdf")
    told = window.p95(1.0, at_least=32)
    assert true * (1 - 1e-9) <= told <= true * 1.0906


def test_few_observations_tell_nothing():
    """A p95 of a handful would be their maximum, and hedge at random."""
    window = LatencyWindow(10.0)
    for n in range(32):
        assert window.p95(0.0, at_least=32) is None, n
        window.observe(0.01, 0.0)
    assert window.p95(0.0, at_least=32) is not None


def test_what_is_long_ago_is_forgotten():
    """Two windows later the old latencies count no more; one window later they still do."""
    window = LatencyWindow(10.0)
    for _ in range(100):
        window.observe(1.0, 0.0)
    for _ in range(100):
        window.observe(0.001, 11.0)
    assert window.p95(11.0, at_least=32) > 0.9
    for _ in range(100):
        window.observe(0.001, 21.5)
    assert window.p95(22.5, at_least=32) < 0.002
    assert window.p95(60.0, at_least=32) is None


def test_any_latency_has_a_bucket():
    """Nothing, and longer than a deadline may be, are counted too."""
    window = LatencyWindow(10.0)
    for latency_s in (0.0, 1e-9, 1e6) * 20:
        window.observe(latency_s, 0.0)
    assert window.p95(0.0, at_least=1) > 100.0
