"""What a replica announces itself as, and the lease that this earns it. Pure values."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardRole:
    """A shard's replica; `version` is what its cluster is pinned to."""

    index: str
    shard: int
    n_shards: int
    version: int

    @property
    def place(self) -> tuple[str, str, int]:
        """What its siblings have in common."""
        return ("shard", self.index, self.shard)

    @property
    def whole(self) -> tuple[str, str]:
        """What it is a part of."""
        return ("index", self.index)


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderRole:
    """An encoder of the question tower with this fingerprint."""

    question_fingerprint: str

    @property
    def place(self) -> tuple[str, str, int]:
        """What its siblings have in common."""
        return ("encoder", self.question_fingerprint, 0)

    @property
    def whole(self) -> tuple[str, str]:
        """As of a shard."""
        return ("tower", self.question_fingerprint)


Role = ShardRole | EncoderRole


@dataclass(frozen=True, slots=True, kw_only=True)
class Announcement:
    """`address` says that it serves as `role`; to be believed for `lease_s` seconds."""

    address: str
    role: Role
    lease_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """One address's; times are of the table's own clock.

    `held_since_s` is when its unbroken row of renewals began.
    """

    role: Role
    lease_s: float
    held_since_s: float
    renewed_s: float

    @property
    def ends_s(self) -> float:
        """When it ends unless it is renewed."""
        return self.renewed_s + self.lease_s

    def proves_silence(self, since_s: float, lasting_s: float) -> bool:
        """Whether this one was heard all the time, so long, in which others should have been."""
        return self.renewed_s - max(self.held_since_s, since_s) >= lasting_s
