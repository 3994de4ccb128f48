"""Shoal's own processes on this machine: what each listens on, its threads, its open files.

Rule: whoever started them, a process is known by its command line, and what it does by the kernel.
"""

import contextlib
import os
import resource
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from deploy.doctor.facts.proc import PROC, command_of, environment_of, folders
from deploy.doctor.facts.sockets import Listening, inodes_of, listening_inodes
from deploy.plan import MODULES

_MODULES = frozenset(MODULES.values())
_UNLIMITED = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnProcess:
    """One process. Another user's may not be looked into: `listening` and `omp_threads` are None.

    `omp_threads` and `omp_wait` are OMP_NUM_THREADS and OMP_WAIT_POLICY of its environment, ""
    where unset. `max_files` is its soft limit of open files, -1 for none; it has `n_files` open.
    """

    pid: int
    module: str
    flags: tuple[str, ...] = ()
    listening: tuple[Listening, ...] | None = ()
    omp_threads: str | None = None
    omp_wait: str | None = None
    n_files: int = -1
    max_files: int = -1

    @property
    def is_readable(self) -> bool:
        """Whether it is this user's."""
        return self.listening is not None


def module_of(command: Sequence[str]) -> str | None:
    """Which of Shoal's programs a command line starts; None for another. Pure."""
    for at, word in enumerate(command[1:5], start=1):
        if word == "-m":
            module = command[at + 1] if len(command) > at + 1 else ""
            return module if module in _MODULES else None
    return None


def own_processes() -> tuple[OwnProcess, ...]:
    """Every one that can be seen, by pid."""
    sockets = listening_inodes()
    found = []
    for folder in folders():
        command = command_of(folder)
        if module := module_of(command):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # gone meanwhile
                found.append(_read(folder, module, command, sockets))
    return tuple(found)


def pid_of(port: int, proc: Path = PROC) -> int | None:
    """Who listens on `port`; None where nobody does, or it is another user's."""
    wanted = {inode for inode, socket in listening_inodes().items() if socket.port == port}
    for folder in folders(proc) if wanted else ():
        if wanted & (inodes_of(int(folder.name), proc) or frozenset()):
            return int(folder.name)
    return None


def _read(
    folder: Path, module: str, command: Sequence[str], sockets: Mapping[int, Listening]
) -> OwnProcess:
    pid = int(folder.name)
    inodes = inodes_of(pid, folder.parent)
    flags = tuple(command[command.index(module) + 1 :])
    if inodes is None:
        return OwnProcess(pid=pid, module=module, flags=flags, listening=None)
    environment = environment_of(folder) or {}
    return OwnProcess(
        pid=pid,
        module=module,
        flags=flags,
        listening=tuple(sorted({sockets[inode] for inode in inodes if inode in sockets})),
        omp_threads=environment.get("OMP_NUM_THREADS", ""),
        omp_wait=environment.get("OMP_WAIT_POLICY", "").upper(),
        n_files=sum(1 for _ in os.scandir(folder / "fd")),
        max_files=_soft_limit(pid),
    )


def _soft_limit(pid: int) -> int:
    soft, _ = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    return _UNLIMITED if soft == resource.RLIM_INFINITY else soft
