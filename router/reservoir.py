"""Keeps one of all that was offered, by lot. Pure but for its generator of chance.

A reservoir of one (Vitter 1985): however much is offered, each is as likely as any other to be the
one that is there when it is taken, and nothing queues up.
"""

import random
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Reservoir(Generic[T]):
    """Holds one of what was offered since it was emptied."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._n_offered = 0
        self._kept: T | None = None

    def offer(self, n: int, keep: Callable[[int], T]) -> None:
        """`n` are offered at once, 1 or more; `keep` makes what is kept of number 0 to n - 1."""
        self._n_offered += n
        if self._rng.random() * self._n_offered < n:
            self._kept = keep(self._rng.randrange(n))

    def take(self) -> T | None:
        """What it holds; it is empty then."""
        kept, self._kept, self._n_offered = self._kept, None, 0
        return kept
