"""Choose a replica. Pure: no sockets; time is an argument where it matters."""

import random
from collections.abc import Sequence
from typing import Protocol, TypeVar


class Loaded(Protocol):
    """What the choice looks at."""

    @property
    def usable(self) -> bool:
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
    """The usable replica with the least load that was not tried yet; ties by lot; None if none."""
    usable = [r for r in replicas if r.usable and not any(r is t for t in tried)]
    if len(usable) <= 1:
        return usable[0] if usable else None
    least = min(r.load for r in usable)
    return rng.choice([r for r in usable if r.load == least])
