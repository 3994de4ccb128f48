"""How spans are dated: their own clock never goes back, the world's is what collectors show."""

import pytest

from shoal.tracing.export import clock_offset_ns


def test_a_pause_between_two_clocks_dates_no_span():
    """A process that loses its core for 5 ms just there would put its spans before its caller's."""
    now_ns, pauses_ns = 1_000, iter([20, 5_000_000, 30, 20, 30, 7_000_000, 40, 20, 20])

    def clock(ahead_ns):
        def look():
            nonlocal now_ns
            now_ns += next(pauses_ns)
            return now_ns + ahead_ns

        return look

    assert clock_offset_ns(clock(1_000_000), clock(0)) == pytest.approx(1_000_000, abs=50)
