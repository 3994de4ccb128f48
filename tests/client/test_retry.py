"""The retry rules, as a function of values."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal import errors
from shoal.retry import DEFAULT_POLICY, pushback_ms_of, retry_delay_s

UNAVAILABLE = errors.UnavailableError("down")


def delay(error, *, pushback_ms=None, attempt=1, remaining_s=60.0, chance=0.5):
    return retry_delay_s(
        error, pushback_ms=pushback_ms, attempt=attempt, remaining_s=remaining_s, chance=chance
    )


@given(
    attempt=st.integers(1, 10),
    chance=st.floats(0, 1, exclude_max=True),
    remaining_s=st.floats(0, 100),
)
def test_a_delay_is_bounded_and_fits_the_time_left(attempt, chance, remaining_s):
    """Delays double up to a limit, never outlast the caller, and end at four attempts."""
    got = delay(UNAVAILABLE, attempt=attempt, chance=chance, remaining_s=remaining_s)
    if attempt >= DEFAULT_POLICY.max_attempts:
        assert got is None
    elif got is not None:
        whole = min(DEFAULT_POLICY.max_delay_s, DEFAULT_POLICY.first_delay_s * 2 ** (attempt - 1))
        assert whole / 2 <= got <= whole
        assert got < remaining_s


def test_pushback_decides():
    """Below 0: never; otherwise exactly that long (gRFC A6)."""
    assert delay(UNAVAILABLE, pushback_ms=-1) is None
    assert delay(UNAVAILABLE, pushback_ms=250) == 0.25


def test_overload_without_retry_info_is_not_tried_again():
    """A message over the size limit is RESOURCE_EXHAUSTED too, and stays as large as it is."""
    assert delay(errors.OverloadedError("too large", retry_after_s=0.0)) is None
    assert delay(errors.OverloadedError("full", retry_after_s=1.5), chance=0.0) == 1.5


@given(after_s=st.floats(0.001, 10), chance=st.floats(0, 1, exclude_max=True))
def test_who_was_refused_together_returns_apart(after_s, chance):
    """Never before the time that the server named, and spread over half of it more."""
    got = delay(errors.OverloadedError("full", retry_after_s=after_s), chance=chance)
    assert got is not None
    assert after_s <= got <= 1.5 * after_s


@pytest.mark.parametrize(
    "error",
    [
        errors.InvalidArgumentError("x"),
        errors.DeadlineExceededError("x"),
        errors.FailedPreconditionError("x"),
        errors.InternalError("x"),
    ],
)
def test_nothing_else_is_tried_again(error):
    """What would fail again, or already took the time, is told at once."""
    assert delay(error) is None


def test_pushback_that_is_no_number_means_never():
    """gRFC A6: what can't be read counts as "don't"."""
    assert pushback_ms_of((("grpc-retry-pushback-ms", "soon"),)) == -1
    assert pushback_ms_of((("other", "1"),)) is None
    assert pushback_ms_of(None) is None
