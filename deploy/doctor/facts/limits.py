"""What the kernel lets a process have, and the room that is left. Linux."""

import resource
import shutil
from dataclasses import dataclass
from pathlib import Path

from deploy.doctor.facts.processor import cgroup_folders

_UNLIMITED = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """Free and total bytes of the file system that holds a folder."""

    path: str
    free_bytes: int
    total_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a process that is started here gets; -1 stands for no limit.

    `memory_bytes` is the least of the machine's memory and of what a cgroup lets this process have;
    `memory_from` says which.
    """

    max_files: int
    max_files_hard: int
    address_space_bytes: int
    max_map_count: int
    memory_bytes: int
    memory_from: str
    shared_memory: Room | None = None


def read_limits() -> Limits:
    """This process's. Raises OSError where it is no Linux machine."""
    soft, hard = (_told(value) for value in resource.getrlimit(resource.RLIMIT_NOFILE))
    machine = parse_meminfo(Path("/proc/meminfo").read_text(encoding="ascii"))
    cgroup = read_memory_limit(Path("/sys/fs/cgroup"), Path("/proc/self/cgroup"))
    limited = cgroup is not None and cgroup < machine
    shm = Path("/dev/shm")  # noqa: S108 -- its size is asked for
    return Limits(
        max_files=soft,
        max_files_hard=hard,
        address_space_bytes=_told(resource.getrlimit(resource.RLIMIT_AS)[0]),
        max_map_count=int(Path("/proc/sys/vm/max_map_count").read_text(encoding="ascii")),
        memory_bytes=cgroup if cgroup is not None and limited else machine,
        memory_from="a cgroup's limit" if limited else "the machine's memory",
        shared_memory=room_of(shm) if shm.is_dir() else None,
    )


def parse_meminfo(text: str) -> int:
    """The machine's memory in bytes, of /proc/meminfo; ValueError where it isn't told. Pure."""
    for line in text.splitlines():
        name, _, value = line.partition(":")
        if name == "MemTotal":
            return int(value.split()[0]) << 10
    raise ValueError("/proc/meminfo has no MemTotal")


def read_memory_limit(root: Path, own: Path) -> int | None:
    """The least memory limit on the way from this process's cgroup up, in bytes; None without."""
    told = []
    for folder in cgroup_folders(root, own, "memory"):
        for name in ("memory.max", "memory.limit_in_bytes"):
            try:
                text = (folder / name).read_text(encoding="ascii").strip()
            except OSError:
                continue
            told += [int(text)] if text.isdigit() else []
    return min(told, default=None)


def room_of(folder: Path) -> Room:
    """Raises OSError."""
    usage = shutil.disk_usage(folder)
    return Room(path=str(folder), free_bytes=usage.free, total_bytes=usage.total)


def _told(value: int) -> int:
    return _UNLIMITED if value == resource.RLIM_INFINITY else value
