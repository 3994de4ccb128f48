"""What this machine remembers of its clusters: one JSON file each under `$XDG_STATE_HOME/shoal`.

Rules:
1. A cluster's launcher holds the lock `NAME.lock` for as long as it lives, so "is it running" has
   one answer that no crash can falsify; the file beside it only says what is running.
2. A pid is believed only together with its start time: pids are used again.
Knows nothing of gRPC, and starts nothing.
"""

import contextlib
import fcntl
import json
import os
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from shoal.errors import ConfigError, LockedError, StorageError
from shoal.json_file import write_json

_NAME = re.compile(r"[a-z0-9_-]{1,64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessState:
    """One process: its role, where it listens ("" before it is known), and where it logs."""

    name: str
    role: str
    pid: int
    started: int
    address: str
    n_restarts: int
    log: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterState:
    """One cluster: its launcher, its router's address, and its processes.

    `phase` is "starting", "ready" or "stopping"; `started` is the launcher's start time in the
    kernel's clock ticks since boot. Where the index lies at `index_url`, `index_dir` is its copy.
    The three after it are how this user's commands reach the router: the files of the certificate
    that it shows, of its key, and of the cluster's own token; each empty where there is none.
    `http` is the URL of the router's HTTP port, "" where it has none.
    `on` is "local" or "ray"; a cluster on Ray has no launcher (`pid` 0), `processes` are those that
    it began with, on any node, and `ray_address` is where Ray itself is asked, HOST:PORT. `tls_ca`
    is the file of who signed the certificate, where it was given.
    """

    name: str
    pid: int
    started: int
    phase: str
    target: str
    index_dir: str
    index: str
    version: int
    processes: tuple[ProcessState, ...]
    index_url: str = ""
    tls_certificate: str = ""
    tls_key: str = ""
    internal_token: str = ""
    on: str = "local"
    ray_address: str = ""
    tls_ca: str = ""
    http: str = ""

    @property
    def alive(self) -> bool:
        """Whether the launcher that wrote this still runs; Ray's clusters last until `down`."""
        return self.on == "ray" or start_time(self.pid) == self.started


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterPaths:
    """Where a cluster's files lie."""

    state: Path
    lock: Path
    folder: Path

    @property
    def internal_token(self) -> Path:
        """The token that the cluster's own processes share."""
        return self.folder / "internal.token"

    @property
    def topology(self) -> Path:
        """What the router reads."""
        return self.folder / "topology.json"

    @property
    def launcher_log(self) -> Path:
        """Where a detached launcher writes."""
        return self.folder / "launcher.log"

    def log(self, process: str) -> Path:
        """Where a process writes."""
        return self.folder / f"{process}.log"

    def address(self, process: str) -> Path:
        """Where a process says on which port it listens."""
        return self.folder / f"{process}.address.json"


def paths_of(name: str) -> ClusterPaths:
    """The paths of cluster `name`; ConfigError where it can't be a name."""
    if not _NAME.fullmatch(name):
        raise ConfigError(f"a cluster's name is [a-z0-9_-]{{1,64}}, not {name!r}")
    home = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    root = Path(home) / "shoal"
    return ClusterPaths(state=root / f"{name}.json", lock=root / f"{name}.lock", folder=root / name)


@contextlib.contextmanager
def hold_cluster(name: str) -> Iterator[ClusterPaths]:
    """Makes this process the launcher of `name`, and forgets the cluster at the end.

    Raises:
        LockedError: another launcher lives; its pid is named.
        StorageError: the state folder can't be written.
    """
    paths = paths_of(name)
    try:
        paths.folder.mkdir(parents=True, exist_ok=True)
        lock = paths.lock.open("w", encoding="utf-8")
    except OSError as failure:
        raise StorageError(f"can't write {failure.filename}: {failure.strerror}") from failure
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            state = read_state(name)
            pid = f", pid {state.pid}" if state else ""
            raise LockedError(
                f"cluster {name!r} is running already{pid}; "
                f"end it with 'shoal down --name {name}', or choose another --name"
            ) from None
        refuse_ray(name)
        paths.state.unlink(missing_ok=True)  # a dead launcher's
        try:
            yield paths
        finally:
            paths.state.unlink(missing_ok=True)


def refuse_ray(name: str) -> None:
    """LockedError where `name` is a cluster on Ray, which holds no lock."""
    state = read_state(name)
    if state is not None and state.on == "ray":
        raise LockedError(
            f"cluster {name!r} is running on Ray at {state.ray_address}; "
            f"end it with 'shoal down --name {name}', or choose another --name"
        )


def forget_empty(paths: ClusterPaths) -> None:
    """Removes a cluster's folder where no process has left anything in it."""
    with contextlib.suppress(OSError):
        paths.folder.rmdir()


def read_state(name: str) -> ClusterState | None:
    """What is remembered of `name`; None where nothing is, or where it can't be read."""
    try:
        values: dict[str, Any] = json.loads(paths_of(name).state.read_text(encoding="utf-8"))
        processes = tuple(ProcessState(**process) for process in values.pop("processes"))
        return ClusterState(processes=processes, **values)
    except (OSError, ValueError, TypeError, KeyError):
        return None


def running_version(topology: Path, index: str) -> int | None:
    """The version of `index` that a cluster's topology file names; None where it can't be read."""
    try:
        content: dict[str, Any] = json.loads(topology.read_text(encoding="utf-8"))
        versions = {str(spec["name"]): int(spec["version"]) for spec in content["indexes"]}
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return versions.get(index)


def served_versions(index_dir: Path) -> frozenset[int]:
    """Versions of the index at `index_dir` that this user's running clusters on this machine serve.

    A restarted shard opens them again, so their files must stay.
    """
    folder = paths_of("any").state.parent
    states = [read_state(path.stem) for path in folder.glob("*.json") if _NAME.fullmatch(path.stem)]
    return frozenset(
        state.version
        for state in states
        if state is not None and state.alive and Path(state.index_dir) == index_dir.resolve()
    )


def write_state(paths: ClusterPaths, state: ClusterState) -> None:
    """Replaces the state in one rename.

    Raises:
        StorageError: the disk is full or not writable.
    """
    write_json(paths.state, asdict(state))


def start_time(pid: int) -> int:
    """When `pid` started, in clock ticks since boot; 0 where no such process lives.

    Source: proc(5), fields 3 and 22 of /proc/PID/stat; a zombie counts as gone.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return 0
    fields = stat.rpartition(")")[2].split()
    return 0 if fields[0] in {"Z", "X"} else int(fields[19])
