"""A round's decisions, driven by hand: events and times in, actions out."""

import heapq
import itertools
import random
from dataclasses import dataclass, field

import pytest

from router.budget import CallBudget
from router.calls import Ask, Budgets, Drop, Failure, Judge, Kind, Plan, Suspect
from router.outcomes import Outcome, ShardOutcome
from router.round import Round
from router.standing import Standing, State
from router.waiting import Goal, Patience

DOWN = Failure(ShardOutcome(outcome=Outcome.DOWN, detail="gone"), may_retry=True)
BUG = Failure(ShardOutcome(outcome=Outcome.DOWN, detail="bug"), may_retry=False)
LATE = Failure(ShardOutcome(outcome=Outcome.LATE, detail="late"), may_retry=False)


@dataclass(eq=False)
class Replica:
    name: str = ""
    load: int = 0
    standing: Standing = field(default_factory=lambda: Standing(state=State.HEALTHY))


def replicas(n: int) -> list[Replica]:
    # loads that differ make the choice certain
    return [Replica(name, load) for load, name in enumerate("abcdef"[:n])]


def budgets_of(*, hedge_share=0.0, hedge_floor=0, retry_floor=10) -> Budgets:
    return Budgets(
        retries=CallBudget(0.0, floor=retry_floor, window_s=1.0),
        hedges=CallBudget(hedge_share, floor=hedge_floor, window_s=1.0),
    )


def round_of(
    shards, *, hedge_after_s=0.02, until_s=1.0, goal=None, budgets=None, is_known=True
) -> Round:
    known = Patience(hedge_after_s=hedge_after_s, late_after_s=0.1, lost_after_s=0.1)
    patience = dict.fromkeys(shards, known) if is_known else {}
    plan = Plan(shards=shards, until_s=until_s, patience=patience, goal=goal)
    if budgets is None:
        budgets = budgets_of(hedge_share=1.0, hedge_floor=9)
    return Round(plan, budgets, random.Random(1))


def asked(actions) -> list:
    return [action.attempt for action in actions if isinstance(action, Ask)]


def dropped(actions) -> list:
    return [action.attempt for action in actions if isinstance(action, Drop)]


def judged(actions) -> list[tuple[str, bool, bool]]:
    return [(a.replica.name, a.well, a.spare) for a in actions if isinstance(a, Judge)]


def test_every_shard_is_asked_once_and_answers():
    """The common way: no extra calls, good marks, done."""
    pair = replicas(2)
    round_ = round_of({0: pair, 1: pair})
    first, second = asked(round_.begin(0.0))
    assert {first.replica.name, second.replica.name} == {"a"}
    assert judged(round_.replied(second, 0.01)) == [("a", True, False)]
    assert not round_.done
    round_.replied(first, 0.01)
    assert round_.done
    assert set(round_.answered) == {0, 1}
    assert not round_.given_up


def test_a_failure_goes_to_the_sibling_and_then_is_an_outcome():
    """Each replica once; the last failure is the reason."""
    round_ = round_of({0: replicas(2)})
    [first] = asked(round_.begin(0.0))
    [again] = asked(round_.failed(first, DOWN, 0.001))
    assert (again.replica.name, again.kind) == ("b", Kind.RETRY)
    assert not asked(round_.failed(again, DOWN, 0.002))
    assert round_.given_up == {0: DOWN.outcome}
    assert round_.done


def test_what_another_replica_can_not_help_is_not_asked_again():
    """A bug that one query meets would be met again, and a deadline is everybody's."""
    for failure in (BUG, LATE):
        round_ = round_of({0: replicas(2)})
        [first] = asked(round_.begin(0.0))
        assert not asked(round_.failed(first, failure, 0.001))
        assert round_.given_up == {0: failure.outcome}


def test_a_short_deadline_is_no_strike():
    """A caller in a hurry can't have a replica left out."""
    round_ = round_of({0: replicas(2)})
    [first] = asked(round_.begin(0.0))
    assert judged(round_.failed(first, LATE, 0.001)) == []
    round_ = round_of({0: replicas(2)}, until_s=0.01, hedge_after_s=9)
    round_.begin(0.0)
    actions = round_.tick(0.01)
    assert (len(dropped(actions)), judged(actions)) == (1, [])


def test_a_spent_budget_ends_retries():
    """And the outcome says so."""
    budgets = budgets_of(retry_floor=0)
    round_ = round_of({0: replicas(2)}, budgets=budgets)
    [first] = asked(round_.begin(0.0))
    assert not asked(round_.failed(first, DOWN, 0.001))
    assert "retry budget" in round_.given_up[0].detail


def test_a_slow_call_is_hedged_and_the_first_reply_wins():
    """After the p95 the sibling is asked; the loser is dropped and gets a strike."""
    round_ = round_of({0: replicas(2)})
    [slow] = asked(round_.begin(0.0))
    slow.replica.load = 2
    assert round_.wake_s == pytest.approx(0.02)
    assert not round_.tick(0.019)
    [hedge] = asked(round_.tick(0.021))
    assert (hedge.replica.name, hedge.kind) == ("b", Kind.HEDGE)
    actions = round_.replied(hedge, 0.03)
    assert dropped(actions) == [slow]
    assert judged(actions) == [("b", True, False), ("a", False, True)]
    assert round_.done
    assert not round_.replied(slow, 0.04), "what comes later changes nothing"


def test_a_hedge_that_loses_is_no_strike():
    """It was asked later; the first one's answer came before its time."""
    round_ = round_of({0: replicas(2)})
    [first] = asked(round_.begin(0.0))
    first.replica.load = 2
    [hedge] = asked(round_.tick(0.021))
    actions = round_.replied(first, 0.022)
    assert dropped(actions) == [hedge]
    assert judged(actions) == [("a", True, False)]


def test_a_hedge_needs_a_healthy_and_half_as_busy_sibling_and_a_budget():
    """Otherwise it would do harm: to the sibling, or to everybody."""
    for load, state, share in (
        (2, State.HEALTHY, 1.0), (1, State.TRIAL, 1.0), (1, State.HEALTHY, 0.0)
    ):  # fmt: skip
        pair = [Replica("a", 0), Replica("b", load, Standing(state=state))]
        if state is State.TRIAL:
            pair[0].load = 0
        budgets = budgets_of(hedge_share=share)
        round_ = round_of({0: pair}, budgets=budgets)
        [first] = asked(round_.begin(0.0))
        assert first.replica.name == "a"
        first.replica.load = 2
        assert not asked(round_.tick(0.03))


def test_a_failed_hedge_leaves_the_first_call_to_answer():
    """Two calls: one may fail."""
    round_ = round_of({0: replicas(2)})
    [first] = asked(round_.begin(0.0))
    first.replica.load = 2
    [hedge] = asked(round_.tick(0.021))
    assert not asked(round_.failed(hedge, DOWN, 0.03))
    round_.replied(first, 0.05)
    assert set(round_.answered) == {0}


def test_a_late_call_is_a_strike_before_it_ends():
    """So that a frozen process is found long before its callers' deadlines."""
    round_ = round_of({0: replicas(1)})
    [first] = asked(round_.begin(0.0))
    assert judged(round_.tick(0.101)) == [("a", False, False)]
    assert judged(round_.tick(0.2)) == [], "one a call"
    assert judged(round_.replied(first, 0.3)) == []
    assert set(round_.answered) == {0}, "late is better than never"


def test_a_late_call_is_asked_again_where_no_hedge_was_granted():
    """A quiet router has no hedges; the first answer still wins, and it is asked once more only."""
    budgets = budgets_of()
    round_ = round_of({0: replicas(3)}, budgets=budgets)
    [first] = asked(round_.begin(0.0))
    first.replica.load = 4
    assert not asked(round_.tick(0.021))
    [again] = asked(round_.tick(0.101))
    assert (again.replica.name, again.kind) == ("b", Kind.RETRY)
    assert not asked(round_.tick(0.15))
    assert dropped(round_.replied(again, 0.16)) == [first]


def test_a_slow_answer_ends_a_trial_where_nobody_knows_what_is_slow():
    """A restarted replica under bulk or questions must come back, though each call takes 5 s."""
    on_trial = Replica("a", 0, Standing(state=State.TRIAL))
    round_ = round_of({0: [on_trial, Replica("b", 1)]}, until_s=60.0, is_known=False)
    [first] = asked(round_.begin(0.0))
    assert round_.wake_s == pytest.approx(0.25)
    assert round_.tick(0.25) == [Suspect(on_trial)], "checked at once, and not struck"
    for n in range(1, 90):
        assert round_.tick(0.25 + n * 0.05) == [], "one check a call"
    assert judged(round_.replied(first, 5.0)) == [("a", True, False)]


def test_a_call_that_nobody_answers_is_a_strike_though_nobody_knows_what_is_slow():
    """A process may answer checks and hang: after a second, at the call's end, it is its fault."""
    for ended_s, n_strikes in ((0.5, 0), (2.0, 1)):
        round_ = round_of({0: replicas(2)}, until_s=ended_s, is_known=False)
        round_.begin(0.0)
        assert judged(round_.tick(ended_s)) == [("a", False, True)] * n_strikes
        round_ = round_of({0: replicas(2)}, until_s=9.0, is_known=False)
        [first] = asked(round_.begin(0.0))
        assert judged(round_.failed(first, LATE, ended_s)) == [("a", False, True)] * n_strikes


def test_a_call_moves_when_its_replica_is_left_out():
    """Its sibling answers; the frozen one is dropped. Without a sibling it stays."""
    for n, is_known in ((1, True), (2, True), (2, False)):
        round_ = round_of({0: replicas(n)}, hedge_after_s=9, is_known=is_known)
        [frozen] = asked(round_.begin(0.0))
        frozen.replica.standing = frozen.replica.standing.ejected("no answer", 0.15)
        actions = round_.tick(0.2 if is_known else 0.25)
        assert len(asked(actions)) == len(dropped(actions)) == n - 1
        assert not round_.done


def test_a_dead_shard_ends_a_round_that_needs_all():
    """min_coverage 1: nothing more is waited for, so the refusal is fast."""
    goal = Goal(min_coverage=1.0, n_live_by_shard=(5, 5))
    round_ = round_of({0: replicas(1), 1: replicas(1)}, goal=goal)
    dead, other = asked(round_.begin(0.0))
    assert dropped(round_.failed(dead, DOWN, 0.01)) == [other]
    assert round_.done
    assert round_.given_up[0].outcome is Outcome.DOWN


def test_what_can_still_be_reached_is_waited_for():
    """min_coverage 0.5 of two shards: one dead is no reason to stop, two are."""
    goal = Goal(min_coverage=0.5, n_live_by_shard=(5, 5))
    round_ = round_of({0: replicas(1), 1: replicas(1)}, goal=goal)
    dead, other = asked(round_.begin(0.0))
    assert not dropped(round_.failed(dead, DOWN, 0.01))
    round_.failed(other, DOWN, 0.02)
    assert round_.done


def test_min_coverage_0_waits_for_an_answer_and_refuses_nothing():
    """All down is an empty answer at once; the first answer starts the shorter wait."""
    goal = Goal(min_coverage=0.0, n_live_by_shard=(5, 5), min_wait_factor=0.1)
    gone = Replica("a", 0, Standing(state=State.EJECTED))
    round_ = round_of({0: [gone], 1: [gone]}, goal=goal)
    assert round_.begin(0.0) == []
    assert round_.done
    round_ = round_of({0: replicas(1), 1: replicas(1)}, goal=goal)
    one, _ = asked(round_.begin(0.0))
    assert round_.wake_s == pytest.approx(0.1)
    round_.replied(one, 0.5)
    round_.tick(0.54)
    assert not round_.done
    round_.tick(0.55)
    assert round_.done


def test_the_last_shard_is_waited_for_a_share_of_the_time_left():
    """4 shards, half is enough: at 0.2 of 1.0 s two are missing, so 0.5 of 0.8 s; then 0.05."""
    goal = Goal(
        min_coverage=0.5, n_live_by_shard=(5,) * 4, min_wait_factor=0.05, max_wait_factor=0.5
    )
    round_ = round_of({n: replicas(1) for n in range(4)}, goal=goal, until_s=1.0)
    calls = asked(round_.begin(0.0))
    round_.replied(calls[0], 0.1)
    round_.replied(calls[1], 0.2)
    round_.tick(0.59)
    assert not round_.done
    round_.replied(calls[2], 0.3)
    round_.tick(0.339)
    assert not round_.done
    round_.tick(0.341)
    assert round_.done
    assert "min_coverage" in round_.given_up[3].detail
    assert round_.given_up[3].outcome is Outcome.LATE


def test_all_shards_are_waited_for_where_all_are_wanted():
    """min_coverage 1: the whole time."""
    goal = Goal(min_coverage=1.0, n_live_by_shard=(5, 5))
    round_ = round_of({0: replicas(1), 1: replicas(1)}, goal=goal)
    one, _ = asked(round_.begin(0.0))
    round_.replied(one, 0.01)
    round_.tick(0.99)
    assert not round_.done
    round_.tick(1.0)
    assert round_.done


class Schedule:
    """One schedule: random latencies, failures and deaths, and what must always hold."""

    def __init__(self, seed: int) -> None:
        self.chance = chance = random.Random(seed)
        n_replicas = chance.randint(1, 3)
        self.shards = {n: replicas(n_replicas) for n in range(chance.randint(1, 6))}
        n_live = tuple(chance.randint(0, 9) for _ in self.shards)
        min_coverage = chance.choice([0.0, 0.3, 0.5, 1.0, chance.random()])
        self.goal = chance.choice([None, Goal(min_coverage=min_coverage, n_live_by_shard=n_live)])
        self.round_ = round_of(
            self.shards,
            goal=self.goal,
            budgets=budgets_of(hedge_share=0.5, hedge_floor=1),
            hedge_after_s=chance.choice([0.01, 9]),
        )
        self.events = []
        self.number = itertools.count()
        self.under_way = set()
        self.asks = {}
        self.now_s = 0.0

    def carry_out(self, actions) -> None:
        chance = self.chance
        for action in actions:
            if isinstance(action, Ask):
                attempt = action.attempt
                self.under_way.add(attempt)
                self.asks.setdefault(attempt.shard, []).append(attempt.replica)
                takes_s = chance.choice([0.001, 0.005, 0.05, 0.3, 9.0]) * chance.random()
                failure = chance.choice([None, None, None, DOWN, BUG, LATE])
                end = (self.now_s + takes_s, next(self.number), attempt, failure)
                heapq.heappush(self.events, end)
            elif isinstance(action, Drop):
                self.under_way.remove(action.attempt)  # once, and only while it is under way
            elif isinstance(action, Judge) and not action.well and chance.random() < 0.3:
                action.replica.standing = action.replica.standing.ejected("x", self.now_s)

    def step(self) -> None:
        if not self.events or self.events[0][0] > self.round_.wake_s:
            self.now_s = max(self.now_s, self.round_.wake_s)
            self.carry_out(self.round_.tick(self.now_s))
            return
        self.now_s, _, attempt, failure = heapq.heappop(self.events)
        if attempt in self.under_way:
            self.under_way.remove(attempt)
            if failure is None:
                self.carry_out(self.round_.replied(attempt, self.now_s))
            else:
                self.carry_out(self.round_.failed(attempt, failure, self.now_s))

    def play(self) -> None:
        self.carry_out(self.round_.begin(self.now_s))
        n_steps = 0
        while not self.round_.done:
            self.step()
            n_steps += 1
            assert n_steps < 1_000, "time must pass"
        assert self.now_s <= 1.0, "no later than its end"
        assert not self.under_way, "nothing is left under way"
        answered, given_up = set(self.round_.answered), self.round_.given_up
        assert answered | set(given_up) == set(self.shards)
        assert not answered & set(given_up)
        for asks in self.asks.values():
            assert len(set(asks)) == len(asks), "no replica twice for a shard"
        if self.goal is None:
            assert not any("not waited for" in outcome.detail for outcome in given_up.values())
        elif any("too little" in outcome.detail for outcome in given_up.values()):
            assert not self.goal.reached_by(sum(self.goal.n_live_by_shard[n] for n in answered))


def test_whatever_happens_a_round_ends_in_time_with_every_shard_told():
    """2,000 seeded schedules; a seed replays a failure."""
    for seed in range(2_000):
        try:
            Schedule(seed).play()
        except Exception as failure:
            raise AssertionError(f"seed {seed}") from failure
