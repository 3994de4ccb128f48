"""What the kernel lets a process have, beside what a cluster needs: files and maps. Pure."""

from collections.abc import Iterator

from deploy.doctor.facts.record import Facts
from deploy.doctor.findings import Finding, fault, ok, warning

_LEAST_FILES = 1024
_NEARLY = 0.8
_MAPS_A_SEGMENT = 4
"""Two files are mapped (/proc/PID/maps shows them); the rest is room for large allocations."""
_LEAST_MAPS = 4096
"""What a process maps by itself: a shard server with a tiny index had 798 areas."""
_GIB = 1 << 30
_LEAST_FREE = 1 * _GIB
_SEVERAL = 2
"""Versions in memory while a reload is under way."""


def open_files(facts: Facts) -> Iterator[Finding]:
    """A limit of open files that clients alone would use up: each holds a connection."""
    limits = facts.limits
    if limits is None:
        return
    name = "open-files"
    full = [p for p in facts.own if p.max_files > 0 and p.n_files > _NEARLY * p.max_files]
    for process in full:
        yield fault(
            name,
            f"{process.module} (pid {process.pid}) has {process.n_files} of its "
            f"{process.max_files} files open: it will refuse connections",
            "start it again with a higher 'ulimit -n' (LimitNOFILE in systemd)",
        )
    low = [p for p in facts.own if 0 < p.max_files < _LEAST_FILES]
    for process in low:
        yield warning(
            name,
            f"{process.module} (pid {process.pid}) may open {process.max_files} files, and each "
            "connection is one",
            "start it again with a higher 'ulimit -n' (LimitNOFILE in systemd)",
        )
    if 0 < limits.max_files < _LEAST_FILES:
        yield warning(
            name,
            f"what is started here may open {limits.max_files} files, and each connection is one",
            f"'ulimit -n {max(limits.max_files_hard, _LEAST_FILES)}' before 'shoal up'",
        )
    elif not (full or low):
        told = "any number of" if limits.max_files < 0 else f"{limits.max_files:,}"
        yield ok(name, f"a process may open {told} files")


def memory_maps(facts: Facts) -> Iterator[Finding]:
    """Too few memory maps for the segments of the index, or a bounded address space."""
    limits, index = facts.limits, facts.index
    if limits is None:
        return
    name = "memory-maps"
    n_segments = index.n_segments if index else 0
    wanted = _LEAST_MAPS + _SEVERAL * _MAPS_A_SEGMENT * n_segments
    bounded = limits.address_space_bytes
    if limits.max_map_count < wanted:
        yield warning(
            name,
            f"a process may map {limits.max_map_count:,} areas of memory; {n_segments} segments "
            f"may want {wanted:,}",
            f"sysctl -w vm.max_map_count={max(65530, wanted)}; or build the index anew, in fewer "
            "segments",
        )
    if bounded >= 0 and index is not None and bounded < 2 * index.n_bytes + _LEAST_FREE:
        yield fault(
            name,
            f"what is started here may address {_gib(bounded)}, and the index, mapped, has "
            f"{_gib(index.n_bytes)}",
            "'ulimit -v unlimited' before 'shoal up' (LimitAS in systemd)",
        )
    elif limits.max_map_count >= wanted:
        yield ok(name, f"a process may map {limits.max_map_count:,} areas of memory")


def _gib(n_bytes: int) -> str:
    return f"{n_bytes / _GIB:,.1f} GiB" if n_bytes >= _GIB else f"{n_bytes / (1 << 20):,.1f} MiB"
