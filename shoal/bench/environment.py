"""What a run's figures depend on beside the server: the machine, the releases, the command."""

import os
import platform
import shlex
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from shoal import __version__

_PACKAGES = ("grpcio", "protobuf", "numpy", "hdrhistogram", "faiss-cpu", "faiss-gpu", "aiohttp")


def describe_run(arguments: Sequence[str], seed: int) -> dict[str, Any]:
    """The run's circumstances, for JSON: all text and numbers.

    `arguments` are the command's; a token is never among them, since there is no flag for one.
    """
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join(["shoal", *arguments]),
        "seed": seed,
        "machine": describe_machine(),
        "versions": {"shoal": __version__, "python": platform.python_version(), **_installed()},
    }


def describe_machine() -> dict[str, Any]:
    """The machine that the generator ran on."""
    return {
        "host": platform.node(),
        "processor": _field(Path("/proc/cpuinfo"), "model name") or platform.machine(),
        "cores": len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count(),
        "memory_gib": round(_memory_kib() / (1 << 20), 1),
        "system": f"{platform.system()} {platform.release()}",
        "load_before": round(os.getloadavg()[0], 2),
    }


def _installed() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def _memory_kib() -> int:
    words = _field(Path("/proc/meminfo"), "MemTotal").split()
    return int(words[0]) if words else 0


def _field(path: Path, name: str) -> str:
    """The value of the first line that begins with `name`, or ""."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    found = (line.partition(":")[2].strip() for line in lines if line.startswith(name))
    return next(found, "")
