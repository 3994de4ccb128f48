"""The encoder's permits: two bounds, texts and predicted time, on a clock of their own."""

import pytest
from fakes.clock import Clock

from encoder_service.admission import Permits, guessed_tokens
from encoder_service.batching import Priority
from shoal.errors import DeadlineExceededError, OverloadedError

QUESTION = "how do I copy a list, and what of the lists in it"
LATER_S = 1e9


def busy_permits(*, n_done: int, n_waiting: int, seconds: float) -> tuple[Permits, Clock]:
    """Permits that saw `n_done` questions answered in `seconds`, and hold `n_waiting` more."""
    clock = Clock()
    permits = Permits(8_192, wait_s=1.0, clock=clock)
    held = [permits.take([QUESTION], Priority.INTERACTIVE, LATER_S)
            for _ in range(n_done + n_waiting)]  # fmt: skip
    clock.now_s = seconds
    for permit in held[:n_done]:
        permits.encoded(permit)
        permits.give_back(permit)
    return permits, clock


def test_tokens_are_guessed_from_length_and_bounded():
    """A text above what models read costs no more; an empty one still costs its marks."""
    assert guessed_tokens(["a" * 400]) == 102
    assert guessed_tokens(["a" * 10**6]) == guessed_tokens(["a" * 10**5])
    assert guessed_tokens(["", ""]) == 4


def test_what_would_wait_too_long_is_refused_on_arrival():
    """400 wait at 100 a second: refused, with a time to come back that is less than the queue's."""
    permits, _ = busy_permits(n_done=100, n_waiting=400, seconds=1.0)
    with pytest.raises(OverloadedError) as refused:
        permits.take([QUESTION], Priority.INTERACTIVE, LATER_S)
    assert 1.0 < refused.value.retry_after_s < 8.0
    assert permits.n_texts == 400


def test_what_waits_for_a_moment_is_let_in():
    """400 wait at 2,000 a second: no refusal."""
    permits, _ = busy_permits(n_done=2_000, n_waiting=400, seconds=1.0)
    permits.take([QUESTION], Priority.INTERACTIVE, LATER_S)


def test_bulk_stays_out_while_questions_fill_the_encoder():
    """Leftover room only: the same texts enter when nobody asks."""
    permits, _ = busy_permits(n_done=500, n_waiting=400, seconds=1.0)
    with pytest.raises(OverloadedError):
        permits.take(["a passage"], Priority.BULK, LATER_S)
    quiet, _ = busy_permits(n_done=500, n_waiting=0, seconds=1.0)
    quiet.take(["a passage"] * 1_024, Priority.BULK, LATER_S)


def test_a_spent_deadline_takes_no_permit():
    """Refused before anything is tokenized, and nothing stays counted."""
    permits = Permits(100, clock=lambda: 5.0)
    with pytest.raises(DeadlineExceededError):
        permits.take([QUESTION], Priority.INTERACTIVE, 5.0)
    assert permits.n_texts == 0
