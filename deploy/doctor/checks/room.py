"""The room that an index takes and leaves: memory, disk, Ray's shared memory. Pure."""

from collections.abc import Iterator

from deploy.doctor.facts.limits import Room
from deploy.doctor.facts.record import Facts
from deploy.doctor.findings import Finding, fault, note, ok, warning

_GIB = 1 << 30
_LEAST_SHM = 2 * _GIB
_LEAST_FREE = 1 * _GIB
_SEVERAL = 2
"""Versions in memory while a reload is under way."""


def memory(facts: Facts) -> Iterator[Finding]:
    """An index that doesn't fit into what memory there is."""
    limits, index = facts.limits, facts.index
    if limits is None or index is None or not index.index_bytes:
        return
    name = "memory"
    n_replicas = _replicas_here(facts)
    resident = n_replicas * sum(index.index_bytes)
    has = f"{limits.memory_from} is {_gib(limits.memory_bytes)}"
    takes = f"{n_replicas} of each shard" if n_replicas > 1 else "its shards"
    if resident > limits.memory_bytes:
        yield fault(
            name,
            f"{has}, and {takes} hold {_gib(resident)} in memory",
            "serve it on more machines ('shoal up --on ray'), raise the limit, or build it with a "
            "smaller recipe ('shoal index plan --budget')",
        )
    elif _SEVERAL * resident > limits.memory_bytes:
        yield warning(
            name,
            f"{has}; {takes} hold {_gib(resident)} in memory, and twice that while 'shoal reload' "
            "moves to another version",
            "raise the limit, or take the cluster down for a new version",
        )
    elif resident + index.mapped_bytes > limits.memory_bytes:
        yield note(
            name,
            f"{has}; {takes} hold {_gib(resident)}, but {_gib(index.mapped_bytes)} of vectors and "
            "passages are read through the page cache: some searches will wait for the disk",
            "see that the index lies on a fast local disk",
        )
    else:
        yield ok(name, f"{has}; {takes} hold {_gib(resident)}, and all files fit the page cache")


def disk_room(facts: Facts) -> Iterator[Finding]:
    """A disk where the next version doesn't fit."""
    index = facts.index
    if index is None or index.room is None:
        return
    room = index.room
    free = f"{_gib(room.free_bytes)} are free at {room.path}"
    if room.free_bytes < _LEAST_FREE:
        yield warning("disk-room", free, _make_room(facts))
    elif room.free_bytes < index.n_bytes:
        what = f"{free}, less than the index has: building it anew beside itself won't fit"
        yield note("disk-room", what, _make_room(facts))
    else:
        yield ok("disk-room", free)


def shared_memory(facts: Facts) -> Iterator[Finding]:
    """Too little /dev/shm for Ray's object store, which then lies on a disk."""
    room: Room | None = facts.limits.shared_memory if facts.limits else None
    if room is None or not facts.ray:
        return
    if room.total_bytes < _LEAST_SHM:
        yield warning(
            "shared-memory",
            f"{room.path} has {_gib(room.total_bytes)}: Ray keeps its objects on disk instead, and "
            "'shoal index build --on ray' is slow",
            "run the container with --shm-size of 30 % of its memory",
        )
    else:
        yield ok("shared-memory", f"{room.path} has {_gib(room.total_bytes)}")


def _replicas_here(facts: Facts) -> int:
    """How many processes serve each shard on this machine; 1 before any does."""
    status = facts.cluster.status if facts.cluster else None
    shards = [p for p in status.processes if p.role == "shard"] if status else []
    n_shards = facts.cluster.n_shards if facts.cluster else 0
    return max(1, len(shards) // n_shards) if n_shards else 1


def _make_room(facts: Facts) -> str:
    index = facts.index
    if index and index.n_prunable_bytes:
        return f"'shoal index prune --index {index.place}' frees {_gib(index.n_prunable_bytes)}"
    return "free some, or build on another disk"


def _gib(n_bytes: int) -> str:
    return f"{n_bytes / _GIB:,.1f} GiB" if n_bytes >= _GIB else f"{n_bytes / (1 << 20):,.1f} MiB"
