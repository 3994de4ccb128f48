"""How a replica falls out of use and comes back."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.standing import MAX_STRIKES, Standing, State

HEALTHY = Standing(state=State.HEALTHY)


def struck(standing: Standing, times: int, *, now_s: float = 0.0, spare: bool = True) -> Standing:
    """Struck by calls of which each began after the strike before."""
    for _ in range(times):
        since_s = math.nextafter(max(now_s, standing.struck_s), math.inf)
        standing = standing.after_strike(since_s, since_s=since_s, spare=spare)
    return standing


def test_three_strikes_in_a_row_are_out():
    """Two and a good answer are not."""
    assert struck(HEALTHY, MAX_STRIKES - 1).state is State.HEALTHY
    assert struck(HEALTHY, MAX_STRIKES).state is State.DOUBTED
    assert struck(struck(HEALTHY, 2).after_good_answer(), 2).state is State.HEALTHY


@pytest.mark.parametrize("n_calls", [3, 50])
def test_calls_that_one_stall_meets_are_one_strike(n_calls):
    """They prove one moment, however many: a pause of 30 ms is no reason to leave a replica out."""
    stalled = HEALTHY
    for number in range(n_calls):
        at_s = 1.03 + number / 1_000
        stalled = stalled.after_strike(at_s, since_s=1.0 + number / 100_000, spare=True)
    assert (stalled.state, stalled.strikes) == (State.HEALTHY, 1)
    twice = stalled.after_strike(1.2, since_s=1.1, spare=True)
    assert twice.strikes == 2, "a call that began since is another moment"
    assert twice.after_strike(1.3, since_s=1.25, spare=True).state is State.DOUBTED


def test_a_call_from_before_the_doubt_does_not_lose_the_trial():
    """What was under way then is what the replica was left out for."""
    out = struck(HEALTHY, 3, now_s=10.0)
    trial = out.after_check(10.3)
    assert trial.after_strike(10.4, since_s=9.9, spare=True) is trial
    assert trial.after_strike(10.4, since_s=10.35, spare=True).state is State.DOUBTED
    passed = trial.after_good_answer()
    assert passed.after_strike(10.5, since_s=9.9, spare=True) is passed


def test_strikes_leave_nobody_out_where_no_sibling_is_better():
    """Under overload all are late; leaving them out would make it worse."""
    assert struck(HEALTHY, 50, spare=False).state is State.HEALTHY
    assert struck(struck(HEALTHY, 50, spare=False), 1).state is State.DOUBTED


def test_a_doubted_one_comes_back_through_a_trial():
    """Not before its pause is over, then after a check; one good answer makes it healthy."""
    out = struck(HEALTHY, 3, now_s=10.0)
    assert out.after_check(10.1).state is State.DOUBTED
    trial = out.after_check(10.3)
    assert trial.state is State.TRIAL
    back = trial.after_good_answer()
    assert (back.state, back.strikes, back.n_relapses) == (State.HEALTHY, 0, 0)


def test_pauses_grow_to_two_seconds():
    """A slow replica costs a trial every 2 s in the long run; a cured one is back within 2 s."""
    standing, now_s, pauses = HEALTHY, 0.0, []
    for _ in range(8):
        standing = struck(standing, 3, now_s=now_s)
        pauses.append(standing.not_before_s - now_s)
        now_s = standing.not_before_s
        standing = standing.after_check(now_s)
    assert pauses == pytest.approx([0.25, 0.5, 1.0, 2.0, 2.0, 2.0, 2.0, 2.0])


def test_one_that_died_is_on_trial_as_soon_as_a_check_passes():
    """A restarted process waits for nothing but its check; one that dies on trial pauses."""
    dead = HEALTHY.ejected("gone", 5.0)
    trial = dead.after_check(5.0)
    assert (dead.usable, trial.state) == (False, State.TRIAL)
    again = trial.ejected("gone", 6.0)
    assert again.after_check(6.1).state is State.EJECTED
    assert again.after_check(6.3).state is State.TRIAL


@given(st.lists(st.tuples(st.sampled_from("cgsSe"), st.floats(0, 0.5)), max_size=60))
def test_whatever_happened_a_fit_replica_is_back_in_2_seconds(events):
    """No sequence of events leaves a replica out for longer than its last pause."""
    standing, now_s = Standing(), 0.0
    for event, passed_s in events:
        now_s += passed_s
        match event:
            case "c":
                standing = standing.after_check(now_s)
            case "g":
                standing = standing.after_good_answer()
            case "s" | "S":
                standing = standing.after_strike(
                    now_s, since_s=now_s - passed_s / 2, spare=event == "s"
                )
            case "e":
                standing = standing.ejected("gone", now_s)
    assert standing.usable == (standing.state not in (State.CONNECTING, State.EJECTED))
    back = standing.after_check(now_s + 2.0)
    assert back.usable
    assert back.after_good_answer().state is State.HEALTHY
