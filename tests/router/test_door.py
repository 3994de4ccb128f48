"""Calls that waited where admission can't see them: a burst is served, a standing queue is not."""

import pytest

from router.door import INTERVAL_S, Door, Wait, wait_of
from shoal.errors import OverloadedError


def refused(door: Door, waits, given_s: float = 1.0) -> list[bool]:
    """Whether each call, of (time, wait), is refused."""
    told = []
    for now_s, wait_s in waits:
        try:
            door.check(None if wait_s is None else Wait(wait_s, given_s), now_s)
        except OverloadedError as refusal:
            told.append(refusal.retry_after_s > 0)
        else:
            told.append(False)
    return told


def test_a_burst_is_served():
    """Faults 4 and 57: what stood still for 3 s hands over what came within an instant."""
    waits = [(number * 0.003, 3.0 - number * 0.06) for number in range(50)]
    assert not any(refused(Door(wait_s=0.5), waits))


def test_a_standing_queue_is_refused_until_it_is_gone():
    """Fault 38: after an interval above the bound, and no longer than that."""
    door = Door(wait_s=0.5)
    assert refused(door, [(0.0, 0.6), (0.1, 1.0), (INTERVAL_S, 1.0), (1.0, 0.51)]) == [
        False, False, True, True,
    ]  # fmt: skip
    assert refused(door, [(1.1, 0.5), (1.2, 0.6), (1.3, 0.6)]) == [False, False, False]


def test_half_of_its_time_is_in_order():
    """Who gave 10 s and waited 5 still has time; a wait below the bound is in order anyhow."""
    waits = [(0.0, 5.0), (1.0, 5.0), (1.1, 5.1), (1.4, 5.1)]
    assert refused(Door(wait_s=0.5), waits, given_s=10.0) == [False, False, False, True]
    assert not any(refused(Door(wait_s=0.5), [(0.0, 0.4), (1.0, 0.4)], given_s=0.5))


def test_who_does_not_say_is_let_in():
    """Other clients' calls are judged by their deadlines alone, and tell nothing of the queue."""
    door = Door(wait_s=0.5)
    assert refused(door, [(0.0, 9.0), (0.1, None), (1.0, None), (1.0, 9.0)]) == [
        False, False, False, True,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("told", "remaining_s", "waited"),
    [("10000", 7.5, 2.5), ("10000", 10.004, 0.0), ("", 1.0, None), ("-5", 1.0, None),
     ("\u0665", 1.0, 0.0), ("9" * 40, 1.0, None), ("ten", 1.0, None), ("500", None, None)],
)  # fmt: skip
def test_the_wait_is_what_is_missing(told, remaining_s, waited):
    """What no client of ours says counts as nothing said."""
    found = wait_of((("x-request-id", "a"), ("x-timeout-ms", told)), remaining_s)
    assert (found and found.waited_s) == (None if waited is None else pytest.approx(waited))
    assert wait_of((), 5.0) is None
