"""A replica's files on its node: its child's log, address and token, under a name of its own.

Rule: a supervisor holds its lock for as long as it lives, so that the files of one that was killed
are known to be nobody's, and the next one takes them away. A child that outlives its supervisor's
end by more than its grace is ended: it hangs, and holds memory and perhaps a GPU.
"""

import asyncio
import contextlib
import fcntl
import os
import signal
from pathlib import Path
from typing import IO

from deploy.access import write_token
from deploy.state import ClusterPaths, paths_of, start_time
from shoal.errors import StorageError

_ADDRESS, _LOCK, _LOG, _TOKEN = ".address.json", ".lock", ".log", ".token"


class ReplicaFiles:
    """`name` is unlike any other's on the node."""

    def __init__(self, cluster: str, name: str) -> None:
        """Makes nothing yet. The node's state folder; a dot keeps it apart from local clusters'."""
        self.folder = paths_of(cluster).folder.with_name(f"{cluster}.ray")
        self.name = name
        self._lock: IO[str] | None = None
        self._orphans: list[tuple[int, int]] = []

    @property
    def log(self) -> Path:
        """Where the child writes."""
        return self._path(_LOG)

    @property
    def address(self) -> Path:
        """Where the child says on which ports it listens."""
        return self._path(_ADDRESS)

    @property
    def token(self) -> Path:
        """The token that the cluster's processes share."""
        return self._path(_TOKEN)

    def prepare(self, token: str) -> ClusterPaths:
        """Makes the folder and writes the token, where there is one.

        Raises:
            StorageError: the folder can't be written.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = self._path(_LOCK).open("w", encoding="utf-8")
            fcntl.flock(self._lock, fcntl.LOCK_EX)
        except OSError as failure:
            raise StorageError(f"can't write {failure.filename}: {failure.strerror}") from failure
        self._orphans = self._sweep()
        self.write_token(token)
        return ClusterPaths(
            state=self._path(".json"), lock=self._path(_LOCK), folder=self.folder
        )  # fmt: skip

    def write_token(self, token: str) -> None:
        """Replaces the token's file, mode 0600; without a token there is none."""
        if token:
            write_token(self.token, token)

    def note_child(self, pid: int, started: int) -> None:
        """Writes down which process would be left behind; `started` as `deploy.state` has it."""
        if self._lock is not None:
            with contextlib.suppress(OSError):  # it matters to the next one alone
                self._lock.seek(0)
                self._lock.truncate()
                self._lock.write(f"{pid} {started}\n")
                self._lock.flush()

    async def end_orphans(self, grace_s: float) -> None:
        """Kills the children that `prepare` found without a supervisor, if they still live then."""
        await asyncio.sleep(grace_s if self._orphans else 0)
        for pid, started in self._orphans:
            if start_time(pid) == started:
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
        self._sweep()

    def remove(self) -> None:
        """Removes what a replica that ended in order leaves; the last one takes all logs along."""
        for suffix in (_LOG, _ADDRESS, _TOKEN, _LOCK):
            _unlink(self._path(suffix))
        if self._lock is not None:
            self._lock.close()
        self._sweep()
        if not list(self.folder.glob(f"*{_LOCK}")):
            for log in self.folder.glob(f"*{_LOG}"):
                _unlink(log)
        with contextlib.suppress(OSError):
            self.folder.rmdir()  # refused while others use it

    def _sweep(self) -> list[tuple[int, int]]:
        """Removes what killed supervisors left, but for their logs; returns children that live."""
        orphans = []
        for path in self.folder.glob(f"*{_LOCK}"):
            if path == self._path(_LOCK) or not _is_free(path):
                continue
            pid, started = _child_in(path)
            if started and start_time(pid) == started:
                orphans.append((pid, started))
                continue
            name = path.name.removesuffix(_LOCK)
            for suffix in (_ADDRESS, _TOKEN, _LOCK):
                _unlink(self.folder / f"{name}{suffix}")
        return orphans

    def _path(self, suffix: str) -> Path:
        return self.folder / f"{self.name}{suffix}"


def _is_free(lock: Path) -> bool:
    try:
        with lock.open("a", encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _child_in(lock: Path) -> tuple[int, int]:
    """The child's pid and start time; zeros where none was written."""
    try:
        pid, started = lock.read_text(encoding="utf-8").split()
        return int(pid), int(started)
    except (OSError, ValueError):
        return 0, 0


def _unlink(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink()
