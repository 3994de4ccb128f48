"""The values of a round: what it is asked for, the calls it makes, what it tells. Pure."""

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, NamedTuple, TypeAlias, TypeVar

from router.budget import CallBudget
from router.config import RouterConfig
from router.outcomes import Outcome, ShardOutcome
from router.replicas import Loaded
from router.waiting import Goal, Patience

_RETRY_WINDOW_S = 10.0
_HEDGE_WINDOW_S = 1.0
_FLOOR_RETRIES = 10
"""Retries that are granted to a quiet router."""

NO_REPLICA = ShardOutcome(outcome=Outcome.DOWN, detail="no replica can be reached")

ReplicaT = TypeVar("ReplicaT", bound=Loaded)


class Kind(enum.Enum):
    """Why a replica is asked."""

    FIRST = "first"
    RETRY = "retry"
    HEDGE = "hedge"


@dataclass(slots=True, eq=False, kw_only=True)
class Attempt(Generic[ReplicaT]):
    """One call of a round; `look_s` is when to look at it next if it has not ended."""

    shard: int
    replica: ReplicaT
    kind: Kind
    since_s: float
    look_s: float
    struck: bool = False
    suspected: bool = False


class Ask(NamedTuple, Generic[ReplicaT]):
    """Call `attempt.replica` for `attempt.shard`; report how it ends."""

    attempt: Attempt[ReplicaT]


class Drop(NamedTuple, Generic[ReplicaT]):
    """Cancel the call, whose answer isn't wanted any more."""

    attempt: Attempt[ReplicaT]


class Judge(NamedTuple, Generic[ReplicaT]):
    """Tell the replica how it did in a call since `since_s`; `spare`: a sibling does better."""

    replica: ReplicaT
    since_s: float
    well: bool
    spare: bool


class Suspect(NamedTuple, Generic[ReplicaT]):
    """Have the replica checked at once: it takes long, and nobody knows if that is usual."""

    replica: ReplicaT


Action: TypeAlias = Ask[ReplicaT] | Drop[ReplicaT] | Judge[ReplicaT] | Suspect[ReplicaT]


class Failure(NamedTuple):
    """How a call failed, and whether another replica may do better."""

    outcome: ShardOutcome
    may_retry: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Budgets:
    """Calls beside those that are asked for: shared by all rounds of a router."""

    retries: CallBudget
    hedges: CallBudget

    @classmethod
    def of(cls, config: RouterConfig) -> "Budgets":
        """A router's, for one kind of process."""
        return cls(
            retries=CallBudget(config.retry_share, floor=_FLOOR_RETRIES, window_s=_RETRY_WINDOW_S),
            hedges=CallBudget(config.hedge_share, floor=0, window_s=_HEDGE_WINDOW_S),
        )

    def offer(self, n_calls: int, now_s: float) -> None:
        """Counts the calls of a round."""
        self.retries.offer(n_calls, now_s)
        self.hedges.offer(n_calls, now_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan(Generic[ReplicaT]):
    """Whom to ask, and until when.

    `shards` has the replicas by shard number, `patience` what is known of a shard's latency (a
    shard without is never hedged), `goal` None where every shard is waited for to the end.
    """

    shards: Mapping[int, Sequence[ReplicaT]]
    until_s: float
    patience: Mapping[int, Patience] = field(default_factory=dict)
    goal: Goal | None = None
