"""The processor: what it can do, and how much of it this process may use. Linux."""

import os
import platform
from dataclasses import dataclass
from pathlib import Path

_CPUINFO = Path("/proc/cpuinfo")


@dataclass(frozen=True, slots=True, kw_only=True)
class Processor:
    """`n_cores` are those that this process may run on; `quota_cores` is what a cgroup lets it use
    of them, in cores' worth of time, None for all. `omp_threads` is OMP_NUM_THREADS here.
    """

    machine: str
    flags: frozenset[str]
    n_cores: int
    quota_cores: float | None = None
    omp_threads: str = ""


def read_processor() -> Processor:
    """This machine's. Raises OSError where it is no Linux machine."""
    return Processor(
        machine=platform.machine(),
        flags=parse_flags(_CPUINFO.read_text(encoding="utf-8", errors="replace")),
        n_cores=len(os.sched_getaffinity(0)),
        quota_cores=read_quota(Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")),
        omp_threads=os.environ.get("OMP_NUM_THREADS", ""),
    )


def parse_flags(cpuinfo: str) -> frozenset[str]:
    """The first core's features: "flags" on x86, "Features" on Arm. Pure."""
    for line in cpuinfo.splitlines():
        name, _, value = line.partition(":")
        if name.strip() in {"flags", "Features"}:
            return frozenset(value.split())
    return frozenset()


def read_quota(root: Path, own: Path) -> float | None:
    """The least quota on the way from this process's cgroup up, in cores; None without one.

    Source: the kernel's cgroup-v2.rst (cpu.max) and sched-bwc.rst (cpu.cfs_quota_us).
    """
    quotas = [_quota(folder) for folder in cgroup_folders(root, own, "cpu")]
    return min((quota for quota in quotas if quota is not None), default=None)


def cgroup_folders(root: Path, own: Path, controller: str) -> list[Path]:
    """The folders that may limit this process, for either version of cgroups, inmost first.

    In a container the path that the kernel tells may be the host's; what isn't there is left out.
    """
    found: list[Path] = []
    for line in own.read_text(encoding="utf-8").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        base = root / controller if controllers else root
        folder = base / path.lstrip("/")
        found += [f for f in (folder, *folder.parents) if f.is_relative_to(base) and f.is_dir()]
        found += [base] if base.is_dir() else []
    return list(dict.fromkeys(found))


def _quota(folder: Path) -> float | None:
    try:
        if (folder / "cpu.max").is_file():
            quota, period = (folder / "cpu.max").read_text().split()
        else:
            quota = (folder / "cpu.cfs_quota_us").read_text().strip()
            period = (folder / "cpu.cfs_period_us").read_text().strip()
        return int(quota) / int(period) if quota.isdigit() else None
    except (OSError, ValueError):
        return None
