"""Choose a replica. Pure: no sockets, no clocks.

The least loaded of the healthy ones, and of those on trial that have nothing to do: a trial is one
query at a time. A fresh strike counts as a query more: a call that was overtaken and dropped may
still be what the replica is busy with. Where there is none, one that is on trial; where there is
none of these either, one that is doubted.
"""

import random
from collections.abc import Sequence
from typing import Protocol, TypeVar

from router.standing import Standing, State


class Loaded(Protocol):
    """What the choice looks at."""

    @property
    def standing(self) -> Standing:
        """Whether it is healthy and has what is wanted."""
        ...

    @property
    def load(self) -> int:
        """Queries queued or under way there."""
        ...


_RANKS = {State.HEALTHY: 0, State.TRIAL: 0, State.DOUBTED: 2}
"""The lower the better; who is not there can't be asked."""
_BUSY_TRIAL = 1
_WORST = (9, 0)

ReplicaT = TypeVar("ReplicaT", bound=Loaded)


def choose_replica(
    replicas: Sequence[ReplicaT],
    tried: Sequence[ReplicaT] = (),
    *,
    now_s: float,
    rng: random.Random,
) -> ReplicaT | None:
    """The best replica that was not tried yet; ties by lot; None if none can be asked."""
    best, best_place, n_equal = None, _WORST, 0
    for replica in replicas:
        standing = replica.standing
        state = standing.state
        rank = _RANKS.get(state)
        if rank is None or (tried and any(replica is other for other in tried)):
            continue
        load = replica.load
        if load and state is State.TRIAL:
            rank = _BUSY_TRIAL
        if standing.strikes:
            load += standing.weight(now_s)
        place = (rank, load)
        if place < best_place:
            best, best_place, n_equal = replica, place, 1
        elif place == best_place:
            n_equal += 1  # each of n equals is left with a chance of 1 in n
            if rng.random() * n_equal < 1.0:
                best = replica
    return best


def spare_replica(
    replicas: Sequence[ReplicaT],
    tried: Sequence[ReplicaT],
    *,
    at_most: int,
    now_s: float,
    rng: random.Random,
) -> ReplicaT | None:
    """A healthy replica that was not tried, with no more to do than `at_most`; None if none.

    For calls that need not be made: they go where they do no harm.
    """
    healthy = [
        r
        for r in replicas
        if r.standing.state is State.HEALTHY and r.load + r.standing.weight(now_s) <= at_most
    ]
    return choose_replica(healthy, tried, now_s=now_s, rng=rng) if healthy else None


def has_better(replicas: Sequence[ReplicaT], replica: ReplicaT) -> bool:
    """Whether a sibling is healthy and without a strike."""
    return any(
        r is not replica and r.standing.state is State.HEALTHY and not r.standing.strikes
        for r in replicas
    )
