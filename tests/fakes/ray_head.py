"""A real Ray cluster of one node on this machine, in its own folder; ended by its process id."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from faults.processes import ENVIRONMENT, ROOT, exists, free_port, poll

_STARTED = "Ray runtime started"
_BIN = Path(sys.executable).parent


class RayHead:
    """`ray start --head`; its workers find this checkout, and `state_home` for their files."""

    def __init__(self, state_home: Path, *, block: bool = True, **variables: str) -> None:
        """With `block` the node ends when any of its own processes does, or this one.

        Without, one of them may be killed; `end` finds the others by their folder.
        """
        # a socket's path must be short, which pytest's folders are not
        self.folder = Path(tempfile.mkdtemp(prefix="shoal-ray-", dir="/tmp"))
        self._log = self.folder / "start.log"
        self.address = f"127.0.0.2:{free_port()}"
        host, _, port = self.address.partition(":")
        self.environment = {
            **ENVIRONMENT, "XDG_STATE_HOME": str(state_home), "RAY_ADDRESS": self.address,
            "RAY_USAGE_STATS_ENABLED": "0", **variables,
        }  # fmt: skip
        command = [
            str(_BIN / "ray"), "start", "--head", *(["--block"] if block else []),
            f"--node-ip-address={host}",
            f"--port={port}", "--num-cpus=16", "--include-dashboard=false",
            f"--temp-dir={self.folder / 'r'}", "--object-store-memory=100000000",
        ]  # fmt: skip
        environment = {k: v for k, v in self.environment.items() if k != "RAY_ADDRESS"}
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=ROOT,
                env=environment, start_new_session=True,
            )  # fmt: skip

    def wait_started(self) -> "RayHead":
        poll(self._looks_started, within_s=90.0, what="ray start --head")
        return self

    def _looks_started(self) -> bool:
        assert not self.process.poll(), self._log.read_text()[-2000:]
        return _STARTED in self._log.read_text()

    def pids(self, named: str) -> list[int]:
        """Processes of this node whose title or command line has this text."""
        return [pid for pid in self._all() if named in command_of(pid)]

    def _all(self) -> list[int]:
        roots = [self.process.pid, *running(str(self.folder))]
        return list(dict.fromkeys([*roots, *(pid for root in roots for pid in descendants(root))]))

    def end(self) -> None:
        """SIGTERM ends the node's processes with it; whatever is left is killed."""
        left = self._all()
        self.process.send_signal(signal.SIGTERM)
        for raylet in self.pids("raylet/raylet"):
            with contextlib.suppress(ProcessLookupError):
                os.kill(raylet, signal.SIGTERM)
        with contextlib.suppress(AssertionError):
            poll(lambda: not any(map(exists, left)), within_s=20.0, what="the node is gone")
        for pid in filter(exists, left):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)


def running(named: str) -> list[int]:
    """Processes of this machine whose command line has this text."""
    pids = (int(path.name) for path in Path("/proc").glob("[0-9]*"))
    return [pid for pid in pids if named in command_of(pid)]


def descendants(pid: int) -> list[int]:
    """All processes under this one."""
    children: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parent = int(path.read_text().rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(path.parent.name))
    found, left = [], [pid]
    while left:
        mine = children.get(left.pop(), [])
        found += mine
        left += mine
    return found


def command_of(pid: int) -> str:
    """A process's command line as text; "" for one that is gone."""
    try:
        content = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return ""
    return content.replace(b"\0", b" ").decode(errors="replace")


def parent_of(pid: int) -> int:
    """Who started a process."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
