"""What the directory knows: who lives, which version is pinned, which token is shared.

Rules:
1. Everything but the first pin comes from heartbeats, so a directory that is started again knows
   within `GATHER_S` what the one before it knew: it answers nothing until then.
2. Of two pins the higher epoch holds; of the same epoch, the one that the cluster runs already.
3. A router that starts takes the port of one that left its host, so that a client's list of
   addresses stays true while routers are replaced.
Pure: time is an argument, and every change makes a new value. Must not know Ray.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from deploy.load import ProcessLoad
from deploy.plan import Role

BEAT_S = 1.0
"""Seconds between a replica's heartbeats."""
LEASE_S = 3.0
"""A replica that was silent for so long is gone."""
GATHER_S = 1.5
"""A beat and a half: all that live have been heard by then."""

MAX_SLOTS = 256
"""Routers whose addresses are remembered."""

MISSED_S = 1.5 * BEAT_S
"""A router that was silent for so long has lost its port to the next one on its host. If it lives,
that one can't listen there, and takes another."""

Phase = Literal["starting", "serving", "leaving"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """What a replica is one of: its deployment's name, and its shard's number (-1 for none)."""

    name: str
    role: Role
    shard: int = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One replica, by itself: where it runs and how its child does.

    `address` is "" before the child listens; `pid` is the child's, 0 without one; `version` is the
    one that a shard's child opens when it is started, 0 for other roles; `behind` says that it has
    missed a reload and must be, or is being, started again; `metrics` is its Prometheus page,
    host:port, "" while it has none.
    """

    replica: str
    part: Part
    node: str
    host: str
    address: str = ""
    pid: int = 0
    n_restarts: int = 0
    phase: Phase = "starting"
    version: int = 0
    log: str = ""
    load: ProcessLoad | None = None
    behind: bool = False
    metrics: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pin:
    """The version that the cluster serves; each decision has the next epoch, the first is 0."""

    version: int
    epoch: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Beat:
    """A heartbeat: the replica, and what it was told last."""

    member: Member
    pin: Pin | None = None
    slots: tuple[str, ...] = ()
    token: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """The answer: routers to announce to, by address; the pin is None while it gathers.

    `port` is the one that a starting router is to take, 0 is any; `slots` are the addresses that
    routers had, for the next directory to know. `may_restart`: of its shard's replicas that are
    behind, this one is next.
    """

    routers: tuple[str, ...] = ()
    pin: Pin | None = None
    port: int = 0
    slots: tuple[str, ...] = ()
    may_restart: bool = False
    token: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Roster:
    """The directory's state. `heard` maps a replica to its last word and when it came.

    `slots` maps routers' addresses, also of such as left, to the replica that has each or is to
    take it; "" where that is not known.
    """

    begun_s: float
    first: Pin
    own_token: str = field(default="", repr=False)
    pin: Pin | None = None
    token: str = field(default="", repr=False)
    heard: Mapping[str, tuple[Member, float]] = field(default_factory=dict)
    slots: Mapping[str, str] = field(default_factory=dict)

    def hear(self, beat: Beat, now_s: float) -> "Roster":
        """After this heartbeat; who said goodbye or fell silent is forgotten."""
        member = beat.member
        heard = {
            replica: (known, at_s)
            for replica, (known, at_s) in self.heard.items()
            if now_s - at_s < LEASE_S and replica != member.replica
        }
        if member.phase != "leaving":
            heard[member.replica] = (member, now_s)
        pin = self.pin
        if beat.pin is not None and (pin is None or beat.pin.epoch > pin.epoch):
            pin = beat.pin
        token = self.token or (beat.token if self.own_token else "")
        slots: Mapping[str, str] = {**dict.fromkeys(beat.slots, ""), **self.slots}
        if member.part.role == "router" and member.phase != "leaving":
            spoke = (r for r, (_, at_s) in heard.items() if now_s - at_s < MISSED_S)
            slots = take_slot(slots, member, frozenset(spoke))
        return replace(self, heard=heard, pin=pin, token=token, slots=slots)

    def settle(self, now_s: float) -> "Roster":
        """Decides what no heartbeat told, once all that live have been heard."""
        if now_s - self.begun_s < GATHER_S:
            return self
        return replace(self, pin=self.pin or self.first, token=self.token or self.own_token)

    def repin(self, version: int) -> "Roster":
        """With another version pinned, by a new decision."""
        epoch = max(self.first.epoch, self.pin.epoch if self.pin else 0) + 1
        return replace(self, pin=Pin(version=version, epoch=epoch))

    def live(self, now_s: float) -> tuple[Member, ...]:
        """Who was heard within the lease, by deployment and replica."""
        members = [m for m, at_s in self.heard.values() if now_s - at_s < LEASE_S]
        return tuple(sorted(members, key=lambda m: (m.part.role, m.part.shard, m.replica)))

    def answer(self, now_s: float, replica: str = "") -> Told:
        """What a heartbeat of this replica is answered with."""
        if now_s - self.begun_s < GATHER_S:
            return Told()
        slot = next((a for a, owner in self.slots.items() if replica and owner == replica), "")
        live = self.live(now_s)
        return Told(
            routers=router_addresses(live),
            pin=self.pin,
            port=int(slot.rpartition(":")[2] or 0),
            slots=tuple(self.slots),
            may_restart=replica in first_behind(live),
            token=self.token,
        )


def take_slot(slots: Mapping[str, str], router: Member, spoke: frozenset[str]) -> Mapping[str, str]:
    """The slots after this router was heard: its own address is its, or it gets a free one. Pure.

    A slot of its host is free whose owner is not among `spoke`, the replicas heard lately.
    """
    mine = router.address or next((a for a, owner in slots.items() if owner == router.replica), "")
    free = (
        address
        for address, owner in slots.items()
        if owner not in spoke and address.rpartition(":")[0].strip("[]") == router.host
    )
    taken = mine or next(free, "")
    if not taken or slots.get(taken) == router.replica:
        return slots
    others = [(a, owner) for a, owner in slots.items() if a != taken and owner != router.replica]
    return dict([*others, (taken, router.replica)][-MAX_SLOTS:])


def first_behind(members: tuple[Member, ...]) -> frozenset[str]:
    """The replicas that may be started again, one of each part that has such as missed a reload."""
    first: dict[Part, str] = {}
    for member in members:
        if member.behind:
            first.setdefault(member.part, member.replica)
    return frozenset(first.values())


def router_addresses(members: tuple[Member, ...]) -> tuple[str, ...]:
    """Where routers listen that don't leave, sorted; those that still start are among them.

    A router turns healthy when it has heard of replicas, so these must know of it before.
    """
    return tuple(
        sorted(
            m.address
            for m in members
            if m.part.role == "router" and m.address and m.phase != "leaving"
        )
    )
