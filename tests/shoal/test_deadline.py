"""Deadlines and request ids: what a call carries."""

import pytest

from shoal.rpc import deadline as module
from shoal.rpc.deadline import DEFAULT_TIMEOUT_S, Deadline
from shoal.rpc.request_id import adopt_request_id, current_request_id


class Context:
    def __init__(self, remaining_s):
        self.remaining_s = remaining_s

    def time_remaining(self):
        return self.remaining_s


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    return now


def test_time_runs_out(clock):
    """What is left falls with the clock, to 0 and never below."""
    deadline = Deadline.after(2.0)
    assert (deadline.remaining_s(), deadline.expired) == (2.0, False)
    clock[0] += 1.5
    assert deadline.remaining_s() == 0.5
    clock[0] += 0.5
    assert (deadline.remaining_s(), deadline.expired) == (0.0, True)
    clock[0] += 5
    assert deadline.remaining_s() == 0.0


@pytest.mark.parametrize(
    ("told", "left"),
    [(3.0, 3.0), (None, DEFAULT_TIMEOUT_S), (9.2e9, DEFAULT_TIMEOUT_S), (0.0, 0.0)],
)
def test_a_callers_deadline_or_the_default(clock, told, left):
    """A call without a deadline gets one."""
    assert Deadline.of(Context(told)).remaining_s() == left


def test_deadlines_are_ordered():
    """The latest of several is their max."""
    assert max(Deadline(3.0), Deadline(7.0), Deadline(5.0)) == Deadline(7.0)


@pytest.mark.parametrize("given", ["abc-123", "x" * 128, "!~"])
def test_a_plain_request_id_is_kept(given):
    """Printable ASCII without spaces, up to 128 characters."""
    assert adopt_request_id(given) == given == current_request_id()


@pytest.mark.parametrize("given", ["", "a b", "ä", "x" * 129, "a\nb", "\x00"])
def test_other_ids_are_replaced(given):
    """What could break a log line or a header becomes a new id."""
    made = adopt_request_id(given)
    assert made != given
    assert made == current_request_id()
    assert len(made) == 32
