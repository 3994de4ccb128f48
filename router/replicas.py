"""Choose a replica. Pure: no sockets, no clocks.

The least loaded of the healthy ones, and of those on trial that have nothing to do: a trial is one
query at a time. Where there is none, one that is on trial; where there is none of these either, one
that is doubted.
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


ReplicaT = TypeVar("ReplicaT", bound=Loaded)


def choose_replica(
    replicas: Sequence[ReplicaT], tried: Sequence[ReplicaT] = (), *, rng: random.Random
) -> ReplicaT | None:
    """The best replica that was not tried yet; ties by lot; None if none can be asked."""
    if len(replicas) == 1 and not tried:
        return replicas[0] if replicas[0].standing.usable else None
    usable = [r for r in replicas if r.standing.usable and not any(r is t for t in tried)]
    if len(usable) <= 1:
        return usable[0] if usable else None
    loads = [r.load for r in usable]
    ranks = [_rank(r.standing.state, load) for r, load in zip(usable, loads, strict=True)]
    best = min(zip(ranks, loads, strict=True))
    equal = [r for r, *place in zip(usable, ranks, loads, strict=True) if tuple(place) == best]
    return equal[0] if len(equal) == 1 else rng.choice(equal)


def spare_replica(
    replicas: Sequence[ReplicaT], tried: Sequence[ReplicaT], *, at_most: int, rng: random.Random
) -> ReplicaT | None:
    """A healthy replica that was not tried, with no more to do than `at_most`; None if none.

    For calls that need not be made: they go where they do no harm.
    """
    healthy = [r for r in replicas if r.standing.state is State.HEALTHY and r.load <= at_most]
    return choose_replica(healthy, tried, rng=rng) if healthy else None


def has_better(replicas: Sequence[ReplicaT], replica: ReplicaT) -> bool:
    """Whether a sibling is healthy and without a strike."""
    return any(
        r is not replica and r.standing.state is State.HEALTHY and not r.standing.strikes
        for r in replicas
    )


def _rank(state: State, load: int) -> int:
    if state is State.HEALTHY or (state is State.TRIAL and not load):
        return 0
    return 1 if state is State.TRIAL else 2
