"""One question to several shards, as a state machine: events in, actions out.

Pure: no sockets, no event loop, no clock; every event brings the time. `carrier` carries the
actions out over gRPC; anything else with replicas, a clock and an rng can drive it as well.

Rules:
1. A shard is asked through its best replica (`replicas`).
2. After a failure that another replica may not share, one that was not tried is asked, while the
   retry budget grants it. Searching changes nothing, so repeating it is safe.
3. Past the shard's usual p95 a healthy sibling with at most half the load is asked too, once a
   shard, while the hedge budget grants it. The first good reply wins; the other call is dropped.
4. A call whose replica was left out since it began moves to a sibling, as a retry. For one that
   takes 4 times the p95, or 0.25 s where none is known, with no second call beside it, a sibling as
   in 3 is asked too, as a retry: a quiet router has no budget for hedges, and few calls to find a
   slow replica by.
5. Where fewer shards than all are enough, the rest is waited for as `Goal.wait_factor` says, from
   the first answer on.
6. What no p95 is known of is never late: its replica is checked where a call takes long, and struck
   where the call ends without an answer after having had time enough.
7. When too few shards are left for the coverage wanted, nothing more is waited for.
"""

import math
import random
from typing import Generic, TypeVar

from router.budget import CallBudget
from router.calls import (
    NO_REPLICA,
    Action,
    Ask,
    Attempt,
    Budgets,
    Drop,
    Failure,
    Judge,
    Kind,
    Plan,
    Suspect,
)
from router.outcomes import Outcome, ShardOutcome
from router.replicas import Loaded, choose_replica, has_better, spare_replica
from router.waiting import UNKNOWN, Patience

_FIRST_LOOK_S = 0.25
"""A call takes long: has its replica been left out, or should it be?"""
_LOOK_AGAIN_S = 0.05
"""Between looks at a call that is late: has its replica been left out?"""

ReplicaT = TypeVar("ReplicaT", bound=Loaded)


class Round(Generic[ReplicaT]):
    """See the module. After `done`, `answered` and `given_up` together have every shard."""

    def __init__(self, plan: Plan[ReplicaT], budgets: Budgets, rng: random.Random) -> None:
        self._plan = plan
        self._budgets = budgets
        self._rng = rng
        self._open: dict[int, list[Attempt[ReplicaT]]] = {}
        self._tried: dict[int, list[ReplicaT]] = {}
        self._hedged: set[int] = set()
        self._actions: list[Action[ReplicaT]] = []
        self._until_s = plan.until_s
        self._late_detail = "no answer by the deadline"
        self._wait_span_s: float | None = None
        self.answered: dict[int, Attempt[ReplicaT]] = {}
        self.given_up: dict[int, ShardOutcome] = {}
        self.wake_s = plan.until_s
        """When `tick` is due next."""

    @property
    def done(self) -> bool:
        """Whether nothing is under way any more."""
        return not self._open

    def begin(self, now_s: float) -> list[Action[ReplicaT]]:
        """The first calls."""
        self._budgets.offer(len(self._plan.shards), now_s)
        for shard, replicas in self._plan.shards.items():
            replica = choose_replica(replicas, now_s=now_s, rng=self._rng)
            if replica is None:
                self.given_up[shard] = NO_REPLICA
            else:
                self._ask(shard, replica, Kind.FIRST, now_s)
        if self.given_up:
            self._stop_if_hopeless()
        return self._taken()

    def replied(self, attempt: Attempt[ReplicaT], now_s: float) -> list[Action[ReplicaT]]:
        """A good reply came."""
        attempts = self._open.get(attempt.shard, ())
        if attempt not in attempts:
            return []
        del self._open[attempt.shard]
        self.answered[attempt.shard] = attempt
        if self._is_late(attempt, now_s):
            self._strike(attempt)
        else:
            self._actions.append(Judge(attempt.replica, attempt.since_s, well=True, spare=False))
        for other in attempts:
            if other is not attempt:
                self._actions.append(Drop(other))
                if other.since_s < attempt.since_s:
                    self._strike(other)  # overtaken
        self._wait_less(now_s)
        return self._taken()

    def failed(
        self, attempt: Attempt[ReplicaT], failure: Failure, now_s: float
    ) -> list[Action[ReplicaT]]:
        """A call ended without a reply that can be used."""
        shard = attempt.shard
        attempts = self._open.get(shard, [])
        if attempt not in attempts:
            return []
        attempts.remove(attempt)
        # a caller's short deadline is not the replica's fault
        if failure.outcome.outcome is not Outcome.LATE or self._is_lost(attempt, now_s):
            self._strike(attempt)
        if attempts:
            return self._taken()  # the other call may still answer
        outcome = failure.outcome
        if failure.may_retry:
            sibling = self._sibling(shard, now_s)
            if sibling is not None:
                if self._budgets.retries.take(now_s):
                    self._ask(shard, sibling, Kind.RETRY, now_s)
                    return self._taken()
                outcome = outcome._replace(
                    detail=f"{outcome.detail}; not asked again: the retry budget is spent",
                )
        del self._open[shard]
        self.given_up[shard] = outcome
        self._stop_if_hopeless()
        return self._taken()

    def tick(self, now_s: float) -> list[Action[ReplicaT]]:
        """Time has passed; due at `wake_s`, harmless at any time."""
        if now_s >= self._until_s:
            for attempts in self._open.values():
                for attempt in attempts:
                    if self._is_lost(attempt, now_s):
                        self._strike(attempt)
            self._give_up_the_rest(ShardOutcome(outcome=Outcome.LATE, detail=self._late_detail))
            return self._taken()
        late = [a for attempts in self._open.values() for a in attempts if a.look_s <= now_s]
        for attempt in late:
            self._look_at(attempt, now_s)
        looks_s = [a.look_s for attempts in self._open.values() for a in attempts]
        self.wake_s = min([self._until_s, *looks_s])
        return self._taken()

    def _taken(self) -> list[Action[ReplicaT]]:
        actions, self._actions = self._actions, []
        return actions

    def _patience(self, shard: int) -> Patience:
        return self._plan.patience.get(shard, UNKNOWN)

    def _ask(self, shard: int, replica: ReplicaT, kind: Kind, now_s: float) -> None:
        patience = self._patience(shard)
        wait_s = min(_FIRST_LOOK_S, patience.late_after_s)
        if len(self._plan.shards[shard]) > 1 and shard not in self._hedged:
            wait_s = min(wait_s, patience.hedge_after_s)
        look_s = now_s + wait_s
        attempt = Attempt(shard=shard, replica=replica, kind=kind, since_s=now_s, look_s=look_s)
        if kind is Kind.FIRST:
            self._open[shard], self._tried[shard] = [attempt], [replica]
        else:
            self._open.setdefault(shard, []).append(attempt)
            self._tried[shard].append(replica)
        self.wake_s = min(self.wake_s, look_s)
        self._actions.append(Ask(attempt))

    def _is_late(self, attempt: Attempt[ReplicaT], now_s: float) -> bool:
        return now_s >= attempt.since_s + self._patience(attempt.shard).late_after_s

    def _is_lost(self, attempt: Attempt[ReplicaT], now_s: float) -> bool:
        return now_s >= attempt.since_s + self._patience(attempt.shard).lost_after_s

    def _strike(self, attempt: Attempt[ReplicaT]) -> None:
        """One for each call at most."""
        if attempt.struck:
            return
        attempt.struck = True
        spare = has_better(self._plan.shards[attempt.shard], attempt.replica)
        self._actions.append(Judge(attempt.replica, attempt.since_s, well=False, spare=spare))

    def _look_at(self, attempt: Attempt[ReplicaT], now_s: float) -> None:
        if not attempt.replica.standing.usable and self._move(attempt, now_s):
            return
        patience = self._patience(attempt.shard)
        # points in time, as in `look_s`: a difference may be an ulp short of the period
        late_s = attempt.since_s + patience.late_after_s
        is_slow = now_s >= attempt.since_s + patience.hedge_after_s
        if is_slow and attempt.shard not in self._hedged:
            self._hedged.add(attempt.shard)
            self._ask_beside(attempt, Kind.HEDGE, self._budgets.hedges, now_s)
        first_look_s = min(late_s, attempt.since_s + _FIRST_LOOK_S)
        if now_s < first_look_s:
            attempt.look_s = first_look_s
            return
        attempt.look_s = now_s + _LOOK_AGAIN_S
        if now_s >= late_s:
            self._strike(attempt)
        elif late_s < math.inf:
            return  # as slow as usual
        elif not attempt.suspected:
            attempt.suspected = True
            self._actions.append(Suspect(attempt.replica))
        if len(self._open[attempt.shard]) == 1:
            self._ask_beside(attempt, Kind.RETRY, self._budgets.retries, now_s)

    def _ask_beside(
        self, attempt: Attempt[ReplicaT], kind: Kind, budget: CallBudget, now_s: float
    ) -> None:
        """Asks a spare sibling too, while the first call goes on."""
        shard = attempt.shard
        sibling = spare_replica(
            self._plan.shards[shard],
            self._tried[shard],
            at_most=attempt.replica.load // 2,  # under full load it would only add to it
            now_s=now_s,
            rng=self._rng,
        )
        if sibling is not None and budget.take(now_s):
            self._ask(shard, sibling, kind, now_s)

    def _move(self, attempt: Attempt[ReplicaT], now_s: float) -> bool:
        shard = attempt.shard
        if len(self._open[shard]) > 1:
            return False
        sibling = self._sibling(shard, now_s)
        if sibling is None or not self._budgets.retries.take(now_s):
            return False
        self._open[shard].remove(attempt)
        self._actions.append(Drop(attempt))
        self._ask(shard, sibling, Kind.RETRY, now_s)
        return True

    def _sibling(self, shard: int, now_s: float) -> ReplicaT | None:
        replicas, tried = self._plan.shards[shard], self._tried[shard]
        return choose_replica(replicas, tried, now_s=now_s, rng=self._rng)

    def _wait_less(self, now_s: float) -> None:
        goal = self._plan.goal
        if goal is None or goal.min_coverage >= 1.0 or not self._open:
            return
        n_live = goal.n_live_by_shard
        if not goal.reached_by(sum(n_live[shard] for shard in self.answered)):
            return
        if self._wait_span_s is None:
            self._wait_span_s = max(0.0, self._until_s - now_s)
        factor = goal.wait_factor(n_asked=len(self._plan.shards), n_pending=len(self._open))
        until_s = now_s + self._wait_span_s * factor
        if until_s < self._until_s:
            self._until_s = until_s
            self._late_detail = (
                f"not waited for beyond {self._wait_span_s * factor * 1e3:.0f} ms "
                "once min_coverage was reached"
            )
            self.wake_s = min(self.wake_s, until_s)

    def _stop_if_hopeless(self) -> None:
        goal = self._plan.goal
        if goal is None or not self._open:
            return
        left = (n for shard, n in enumerate(goal.n_live_by_shard) if shard not in self.given_up)
        if not goal.reached_by(sum(left)):
            detail = "not waited for: without the others it is too little coverage"
            self._give_up_the_rest(
                ShardOutcome(outcome=Outcome.LATE, detail=detail, is_collateral=True)
            )

    def _give_up_the_rest(self, outcome: ShardOutcome) -> None:
        for shard, attempts in self._open.items():
            self.given_up[shard] = outcome
            for attempt in attempts:
                self._actions.append(Drop(attempt))
        self._open.clear()
