"""Who announced what, and whose lease has ended. Pure: no sockets, no clocks; time is an argument.

The rules:
1. A lease's time is time that this router listened. It is looked at many times a second; a longer
   gap was a stall of this router's own, in which nobody could be heard, and doesn't count.
2. A lease that ended is dropped only where another was held all through its silence. Where
   nobody is heard, the announcements are broken and not the replicas: the topology freezes.
   After such a silence everybody has a whole lease's time to be heard again.
3. Nobody is dropped for silence who has no live sibling, which serves the same shard or encodes for
   the same tower: there would be nobody to ask instead, and health checks leave out who is gone.
   But an index or a tower of which nobody was heard for ten minutes, in which others were, is gone.
4. Who says that it leaves is dropped at once. An address serves one thing: what it said last.
5. The first announcement of an index says its version and its number of shards. The version moves
   only when it is told to (`moved`). What all announce instead is an `agreed_version`, unless they
   said so at the time of the last move already: a router is moved before those who announce know.
   Who still says so half a minute later means it: the move was not brought to its end.
   Another number of shards is refused while the index may still be served with the old one.
6. Everything is bounded: whoever may announce may still be broken.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from router.roles import Announcement, Lease, ShardRole
from router.topology import IndexTopology, Topology
from shoal.errors import ConfigError, FailedPreconditionError

MAX_LEASES = 1_024
MAX_INDEXES = 64
MAX_SHARDS = 1_024

_LONGEST_STEP_S = 0.5
"""What counts of the time between two looks, at most."""
_LEARNING_S = 2.0
"""How long after the first announcement others may still be on their way: supervisors hear of a
router within a second, and announce once a second."""
_ABANDONED_S = 30.0
"""How long after its last announcement an index may still be served as it was announced."""
_DEAD_S = 600.0
"""How long nobody of an index is heard, while others are, before it is believed to have ended."""
_OUTRUN_S = 30.0
"""How long after a move who announces may not know of it; routers are moved one after the other."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pin:
    """How an index is served.

    `heard_s` is when it was last announced, `moved_s` when it moved, and `outrun` has the versions
    that were announced then, until somebody announces the one that it moved to.
    """

    n_shards: int
    version: int
    heard_s: float
    moved_s: float = -math.inf
    outrun: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseTable:
    """All leases; replaced as a whole.

    `clock_s` is the time listened so far, `looked_s` when it was last advanced, `n_changes` counts
    what changes the topology, and `begun_s` is when the first shard was announced.
    """

    leases: Mapping[str, Lease] = field(default_factory=dict)
    pins: Mapping[str, Pin] = field(default_factory=dict)
    clock_s: float = 0.0
    looked_s: float | None = None
    begun_s: float | None = None
    n_changes: int = 0

    @property
    def is_learning(self) -> bool:
        """Whether more may be served than was announced so far."""
        return self.begun_s is None or self.clock_s - self.begun_s < _LEARNING_S

    @property
    def n_overdue(self) -> int:
        """Leases that have ended and are kept."""
        return sum(lease.ends_s <= self.clock_s for lease in self.leases.values())

    def at(self, now_s: float) -> "LeaseTable":
        """The table at this time of any steady clock, without what has ended by then."""
        table = _advanced(self, now_s)
        gone = frozenset(_ended(table))
        leases = {a: lease for a, lease in table.leases.items() if a not in gone}
        named = {role.index for role in _shard_roles(leases)}
        pins = {
            name: pin
            for name, pin in table.pins.items()
            if name in named or table.clock_s - pin.heard_s < _ABANDONED_S
        }
        if not gone and len(pins) == len(table.pins):
            return table
        return replace(table, leases=leases, pins=pins, n_changes=table.n_changes + 1)

    def announced(self, told: Announcement, now_s: float) -> "LeaseTable":
        """The table once `told` was heard.

        Raises:
            FailedPreconditionError: the index is served with another number of shards, or there is
                no room for one more.
        """
        table = self.at(now_s)
        clock_s, role = table.clock_s, told.role
        before = table.leases.get(told.address)
        if before is None and len(table.leases) >= MAX_LEASES:
            raise FailedPreconditionError(f"{MAX_LEASES} replicas are announced here already")
        if isinstance(role, ShardRole):
            table = _heard(table, role)
            before = table.leases.get(told.address)
        held = before is not None and before.ends_s > clock_s
        lease = Lease(
            role=role,
            lease_s=told.lease_s,
            held_since_s=before.held_since_s if before is not None and held else clock_s,
            renewed_s=clock_s,
        )
        is_new = before is None or before.role.place != role.place
        return replace(
            table,
            leases={**table.leases, told.address: lease},
            # encoders may be up a minute before the shards have loaded, and name no index
            begun_s=(
                clock_s if table.begun_s is None and isinstance(role, ShardRole) else table.begun_s
            ),
            n_changes=table.n_changes + is_new,
        )

    def left(self, address: str, now_s: float) -> "LeaseTable":
        """The table without this address; whoever was not there has left already."""
        table = self.at(now_s)
        if address not in table.leases:
            return table
        leases = {a: lease for a, lease in table.leases.items() if a != address}
        role = table.leases[address].role
        pins = table.pins
        if isinstance(role, ShardRole):
            pins = {**pins, role.index: replace(pins[role.index], heard_s=table.clock_s)}
        return replace(table, leases=leases, pins=pins, n_changes=table.n_changes + 1)

    def moved(self, index: str, old: int, new: int) -> "LeaseTable":
        """The table with another version of the index. Raises ConfigError where `old` isn't it."""
        pin = self.pins.get(index)
        if pin is None or pin.version != old:
            raise ConfigError(f"version {old} of index {index} is not what was announced")
        outrun = (pin.outrun | self._announced_versions(index) | {old}) - {new}
        moved = replace(pin, version=new, moved_s=self.clock_s, outrun=outrun)
        pins = {**self.pins, index: moved}
        return replace(self, pins=pins, n_changes=self.n_changes + 1)

    def agreed_version(self, index: str) -> int | None:
        """The version that every lease of the index that has not ended says, and rule 5 believes.

        None where they differ, and where there is no such lease.
        """
        versions = self._announced_versions(index)
        pin = self.pins.get(index)
        if pin is None or len(versions) != 1:
            return None
        if versions <= pin.outrun and self.clock_s - pin.moved_s < _OUTRUN_S:
            return None
        return next(iter(versions))

    def _announced_versions(self, index: str) -> frozenset[int]:
        live = {a: lease for a, lease in self.leases.items() if lease.ends_s > self.clock_s}
        return frozenset(role.version for role in _shard_roles(live) if role.index == index)

    def topology(self) -> Topology:
        """Who should be asked for what; addresses in order."""
        shards: dict[str, list[list[str]]] = {
            name: [[] for _ in range(pin.n_shards)] for name, pin in self.pins.items()
        }
        encoders = []
        for address, lease in sorted(self.leases.items()):
            if isinstance(lease.role, ShardRole):
                shards[lease.role.index][lease.role.shard].append(address)
            else:
                encoders.append(address)
        indexes = tuple(
            IndexTopology(name=name, version=pin.version, shards=tuple(map(tuple, shards[name])))
            for name, pin in sorted(self.pins.items())
        )
        return Topology(format=1, indexes=indexes, encoders=tuple(encoders))


def _advanced(table: LeaseTable, now_s: float) -> LeaseTable:
    if table.looked_s is None:
        return replace(table, looked_s=now_s)
    step_s = min(max(0.0, now_s - table.looked_s), _LONGEST_STEP_S)
    return replace(table, clock_s=table.clock_s + step_s, looked_s=max(now_s, table.looked_s))


def _ended(table: LeaseTable) -> Iterator[str]:
    """Addresses that rules 2 and 3 let go."""
    ended = {a: lease for a, lease in table.leases.items() if lease.ends_s <= table.clock_s}
    if not ended:
        return
    live = [lease for address, lease in table.leases.items() if address not in ended]
    served = {lease.role.place for lease in live}
    wholes = {lease.role.whole for lease in live}
    heard_s: dict[tuple[str, str], float] = {}
    for lease in ended.values():
        whole = lease.role.whole
        heard_s[whole] = max(lease.renewed_s, heard_s.get(whole, -math.inf))
    dead = {
        whole
        for whole, since_s in heard_s.items()
        if whole not in wholes and any(w.proves_silence(since_s, _DEAD_S) for w in live)
    }
    # none at all after a silence of everybody, when there is most to look through
    shortest_s = min(lease.lease_s for lease in ended.values())
    witnesses = [lease for lease in live if lease.renewed_s - lease.held_since_s >= shortest_s]
    for address, lease in ended.items():
        if lease.role.whole in dead or (
            lease.role.place in served
            and any(w.proves_silence(lease.renewed_s, lease.lease_s) for w in witnesses)
        ):
            yield address


def _heard(table: LeaseTable, role: ShardRole) -> LeaseTable:
    """The table once the role's index was heard of. Raises FailedPreconditionError."""
    pin = table.pins.get(role.index)
    if pin is None:
        if len(table.pins) >= MAX_INDEXES:
            raise FailedPreconditionError(f"{MAX_INDEXES} indexes are announced here already")
        return _begun(table, role)
    if pin.n_shards == role.n_shards:
        outrun = frozenset[int]() if role.version == pin.version else pin.outrun
        heard = replace(pin, heard_s=table.clock_s, outrun=outrun)
        return replace(table, pins={**table.pins, role.index: heard})
    is_served = any(other.index == role.index for other in _shard_roles(table.leases))
    if is_served and table.clock_s - pin.heard_s < _ABANDONED_S:
        raise FailedPreconditionError(
            f"index {role.index} has {pin.n_shards} shards here, not {role.n_shards}; end its "
            "other replicas first"
        )
    return _begun(table, role)


def _begun(table: LeaseTable, role: ShardRole) -> LeaseTable:
    """The table with the role's index as the role has it, and no replica of another form of it."""
    leases = {
        address: lease
        for address, lease in table.leases.items()
        if not (isinstance(lease.role, ShardRole) and lease.role.index == role.index)
    }
    pin = Pin(n_shards=role.n_shards, version=role.version, heard_s=table.clock_s)
    pins = {**table.pins, role.index: pin}
    return replace(table, leases=leases, pins=pins, n_changes=table.n_changes + 1)


def _shard_roles(leases: Mapping[str, Lease]) -> Iterator[ShardRole]:
    for lease in leases.values():
        if isinstance(lease.role, ShardRole):
            yield lease.role
