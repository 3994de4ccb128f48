"""What a router serves, as values: replaced as a whole, never changed. Knows no files, no tasks."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from router.cluster import Changes
from router.encoder_replica import EncoderReplica
from router.shard_replica import ShardReplica
from router.topology import IndexVersion
from shoal.errors import (
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
    UnavailableError,
)
from shoal.index_name import refuse_unlawful

STARTING = "STARTING"
"""The reason (`ShoalError.reason`) of an UNAVAILABLE of a router that knows too little yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedIndex:
    """An index's pinned version and its replicas by shard number.

    `known` is what the replicas told of the version when the router moved to it, and holds where
    none of them can be asked; None where the topology named it.
    """

    name: str
    version: int
    shards: tuple[tuple[ShardReplica, ...], ...]
    known: IndexVersion | None = None
    changes: Changes = field(default_factory=Changes)
    _seen: dict[str, tuple[int, Any]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    @property
    def replicas(self) -> tuple[ShardReplica, ...]:
        """Those of all shards."""
        return tuple(replica for replicas in self.shards for replica in replicas)

    @property
    def described(self) -> IndexVersion | None:
        """What the index is, as any replica tells that has the pinned version open; None while
        none does, or where its number of shards is not the topology's.
        """
        told = self._told()
        return told if told and len(told.n_live_by_shard) == len(self.shards) else None

    def _told(self) -> IndexVersion | None:
        told: IndexVersion | None = self._looked_up("told", self._look_what_is_told)
        return told

    def _look_what_is_told(self) -> IndexVersion | None:
        """`known`, unless replicas tell of the version and none tells that: it was built anew."""
        told = [r.versions[self.version] for r in self.replicas if self.version in r.versions]
        return self.known if self.known in told or not told else told[0]

    @property
    def disagreement(self) -> str:
        """How the shard servers disagree with the topology; empty where they don't."""
        told = self._told()
        if told is None or len(told.n_live_by_shard) == len(self.shards):
            return ""
        return (
            f"the topology names index {self.name} with {len(self.shards)} shards, but its shard "
            f"servers serve {len(told.n_live_by_shard)}"
        )

    @property
    def best_shards(self) -> tuple[tuple[ShardReplica, ...], ...]:
        """Replicas by shard: those that have the version open, or all where none is known to.

        One that refuses at once for want of the version has the least load, and would be asked
        first for ever.
        """
        shards: tuple[tuple[ShardReplica, ...], ...] = self._looked_up(
            "best",
            lambda: tuple(
                tuple(r for r in replicas if self.version in r.versions) or replicas
                for replicas in self.shards
            ),
        )
        return shards

    @property
    def there(self) -> frozenset[int]:
        """The shards of which a replica can be asked."""
        shards: frozenset[int] = self._looked_up(
            "there",
            lambda: frozenset(i for i, rs in enumerate(self.shards) if any(r.usable for r in rs)),
        )
        return shards

    def _looked_up(self, name: str, look: Callable[[], Any]) -> Any:
        """What `look` finds, kept until a replica changes: a search asks each time."""
        seen = self._seen.get(name)
        if seen is None or seen[0] != self.changes.n:
            seen = self._seen[name] = (self.changes.n, look())
        return seen[1]

    def coverage(self) -> float:
        """The share of the live passages that healthy replicas hold; 0.0 while nothing is known."""
        known = self.described
        if known is None:
            return 0.0
        return known.coverage(self.there)


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """Everything served: replaced, never changed.

    `learning` says why there may be more indexes than these; empty where there are no others.
    """

    indexes: Mapping[str, ServedIndex] = field(default_factory=dict)
    encoders: tuple[EncoderReplica, ...] = ()
    learning: str = ""

    @property
    def n_waiting(self) -> int:
        """Texts and queries in the lanes before the replicas.

        A query waits for all shards of its index at once: the shard with the longest queue counts.
        """
        texts = sum(encoder.lane.n_waiting for encoder in self.encoders)
        queries = sum(
            max(
                (sum(r.searches.n_waiting for r in replicas) for replicas in index.shards),
                default=0,
            )
            for index in self.indexes.values()
        )
        return texts + queries

    def index(self, name: str) -> ServedIndex:
        """The index of this name, or the only one where the name is empty.

        Raises:
            InvalidArgumentError: no name, and not exactly one index; or what can't be a name.
            NotFoundError: no such index.
            UnavailableError: none that is known yet, and others may be.
        """
        if not name:
            if self.learning:
                raise UnavailableError(self.learning, reason=STARTING)
            if len(self.indexes) != 1:
                names = ", ".join(sorted(self.indexes)) or "none"
                raise InvalidArgumentError(f"name an index; served are: {names}", field="index")
            return next(iter(self.indexes.values()))
        refuse_unlawful(name)
        found = self.indexes.get(name)
        if found is None and self.learning:
            raise UnavailableError(self.learning, reason=STARTING)
        if found is None:
            raise NotFoundError(f"no index {name[:64]!r} here")
        return found


def describe(index: ServedIndex) -> IndexVersion:
    """What the index is.

    Raises:
        UnavailableError: no shard server has been reached yet.
        FailedPreconditionError: its shard servers disagree with the topology.
    """
    if (known := index.described) is not None:
        return known
    if index.disagreement:
        raise FailedPreconditionError(index.disagreement)
    raise UnavailableError(f"no shard of index {index.name} version {index.version} is there")
