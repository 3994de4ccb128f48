"""The choice among replicas, and room in the router."""

import random
from dataclasses import dataclass

import pytest

from router.outcomes import Outcome, another_may_help, outcome_of
from router.replicas import choose_replica, has_better, spare_replica
from router.shard_reply import InvalidReplyError
from router.standing import Standing, State
from shoal import errors
from shoal.v1 import search_pb2


@dataclass(frozen=True, eq=False)
class Replica:
    load: int
    state: State = State.HEALTHY
    strikes: int = 0
    struck_s: float = 0.0

    @property
    def standing(self) -> Standing:
        return Standing(state=self.state, strikes=self.strikes, struck_s=self.struck_s)


def test_the_least_loaded_usable_replica_is_chosen():
    """Neither one that is down nor one that was tried, whatever their load."""
    down, tried, busy, idle = Replica(0, State.EJECTED), Replica(0), Replica(9), Replica(2)
    chance = random.Random(1)
    assert choose_replica([down, tried, busy, idle], [tried], now_s=1.0, rng=chance) is idle
    assert choose_replica([down], now_s=1.0, rng=chance) is None
    assert choose_replica([], now_s=1.0, rng=chance) is None
    assert choose_replica([tried], [tried], now_s=1.0, rng=chance) is None


def test_ties_are_broken_by_lot():
    """Replicas of equal load share the work."""
    replicas = [Replica(1) for _ in range(3)]
    chance = random.Random(1)
    chosen = [choose_replica(replicas, now_s=1.0, rng=chance) for _ in range(300)]
    assert all(60 < chosen.count(replica) < 140 for replica in replicas)


def test_a_trial_is_one_query_at_a_time():
    """An idle replica on trial competes; a busy one waits, unless there is no healthy one."""
    chance = random.Random(1)
    healthy, idle, busy = Replica(5), Replica(0, State.TRIAL), Replica(1, State.TRIAL)
    doubted = Replica(0, State.DOUBTED)
    assert choose_replica([healthy, idle], now_s=1.0, rng=chance) is idle
    assert choose_replica([healthy, busy, doubted], now_s=1.0, rng=chance) is healthy
    assert choose_replica([busy, doubted], now_s=1.0, rng=chance) is busy
    assert choose_replica([doubted, Replica(0, State.EJECTED)], now_s=1.0, rng=chance) is doubted


def test_calls_that_need_not_be_made_go_where_they_do_no_harm():
    """A hedge takes a healthy, untried replica that has no more to do than the slow one."""
    chance = random.Random(1)
    slow, busy, trial, idle = Replica(3), Replica(4), Replica(0, State.TRIAL), Replica(2)
    assert (
        spare_replica([slow, busy, trial, idle], [slow], at_most=3, now_s=1.0, rng=chance) is idle
    )
    assert spare_replica([slow, busy, trial], [slow], at_most=3, now_s=1.0, rng=chance) is None


def test_a_fresh_strike_counts_as_a_query_more():
    """What was overtaken and dropped may still keep the replica busy; for a tenth of a second."""
    chance = random.Random(1)
    struck, busy, busier = Replica(0, strikes=2, struck_s=0.99), Replica(1), Replica(3)
    assert choose_replica([struck, busy], now_s=1.0, rng=chance) is busy
    assert choose_replica([struck, busier], now_s=1.0, rng=chance) is struck
    assert choose_replica([struck, busy], now_s=1.1, rng=chance) is struck
    assert spare_replica([struck, busier], [], at_most=1, now_s=1.0, rng=chance) is None
    assert spare_replica([struck, busier], [], at_most=1, now_s=1.1, rng=chance) is struck


def test_only_a_sibling_without_strikes_is_better():
    """Where all are late the load is to blame, and nobody is left out."""
    slow, fine, struck = Replica(0, strikes=2), Replica(9), Replica(0, strikes=1)
    assert has_better([slow, fine], slow)
    assert not has_better([slow, struck, Replica(0, State.DOUBTED)], slow)
    assert not has_better([fine], fine)


def test_outcomes_are_those_of_the_contract():
    """Our enum and the wire's have the same names and numbers."""
    for outcome in Outcome:
        assert search_pb2.Outcome.Value(f"OUTCOME_{outcome.name}") == outcome
    assert len(search_pb2.Outcome.values()) == len(Outcome) + 1


@pytest.mark.parametrize(
    ("failure", "outcome", "again"),
    [
        (errors.DeadlineExceededError("late"), Outcome.LATE, False),
        (errors.OverloadedError("full", retry_after_s=1), Outcome.OVERLOADED, True),
        (InvalidReplyError("lies"), Outcome.INVALID_REPLY, True),
        (errors.FailedPreconditionError("v", reason="WRONG_VERSION"), Outcome.WRONG_VERSION, True),
        (errors.UnavailableError("gone"), Outcome.DOWN, True),
        (errors.CancelledError("stopping"), Outcome.DOWN, True),
        (errors.InternalError("bug"), Outcome.DOWN, False),
        (ValueError("bug"), Outcome.DOWN, False),
    ],
)
def test_failures_as_outcomes(failure, outcome, again):
    """What each failure of a call means, and whether a sibling is worth asking."""
    assert outcome_of(failure).outcome is outcome
    assert outcome_of(failure).detail == str(failure)
    assert another_may_help(failure) is again
