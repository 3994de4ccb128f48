"""A real Ray cluster of one node on this machine, in its own folder; ended by its process id."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from faults.processes import ENVIRONMENT, ROOT, exists, free_port, poll

_STARTED = "Ray runtime started"
_BIN = Path(sys.executable).parent


class RayHead:
    """`ray start --head`; its workers find this checkout, and `state_home` for their files."""

    def __init__(
        self, state_home: Path, *, block: bool = True, dashboard_port: int = 0,
        n_cpus: int = 16, growing: dict[str, Any] | None = None, **variables: str
    ) -> None:  # fmt: skip
        """With `block` the node ends when any of its own processes does, or this one.

        Without, one of them may be killed; `end` finds the others by their folder. The dashboard,
        which takes jobs and Serve configs, is there where it has a port. `growing` is the cluster
        file of Ray's autoscaler, whose provider is told this head's address.
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
            f"--port={port}", f"--num-cpus={n_cpus}", f"--include-dashboard={dashboard_port > 0}",
            *([f"--dashboard-port={dashboard_port}"] if dashboard_port else []),
            # by default one port, which another cluster's agent may have, and then no job is taken
            f"--dashboard-agent-listen-port={free_port()}",
            f"--temp-dir={self.folder / 'r'}", "--object-store-memory=100000000",
        ]  # fmt: skip
        if growing is not None:
            file = self.folder / "cluster.json"
            provider = {**growing["provider"], "gcs_address": self.address}
            file.write_text(json.dumps({**growing, "provider": provider}))
            command.append(f"--autoscaling-config={file}")
        self.process = self._start(command, self._log)
        self._nodes: list[subprocess.Popen[bytes]] = []

    def _start(self, command: list[str], log: Path) -> "subprocess.Popen[bytes]":
        environment = {k: v for k, v in self.environment.items() if k != "RAY_ADDRESS"}
        with log.open("wb") as file:
            return subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, cwd=ROOT,
                env=environment, start_new_session=True,
            )  # fmt: skip

    def wait_started(self) -> "RayHead":
        poll(lambda: _looks_started(self.process, self._log), within_s=180.0, what="ray start")
        return self

    def add_node(self, host: str) -> "subprocess.Popen[bytes]":
        """One more node of this cluster, at another loopback address; `end` ends it too."""
        log = self.folder / f"{host}.log"
        node = self._start(
            [str(_BIN / "ray"), "start", "--block", f"--address={self.address}",
             f"--node-ip-address={host}", f"--dashboard-agent-listen-port={free_port()}",
             "--num-cpus=16", "--object-store-memory=100000000"],
            log,
        )  # fmt: skip
        self._nodes.append(node)
        poll(lambda: _looks_started(node, log), within_s=180.0, what=f"ray start on {host}")
        return node

    def pids(self, named: str) -> list[int]:
        """Processes of this node whose title or command line has this text."""
        return [pid for pid in self._all() if named in command_of(pid)]

    def _all(self) -> list[int]:
        roots = [self.process.pid, *running(str(self.folder))]
        return list(dict.fromkeys([*roots, *(pid for root in roots for pid in descendants(root))]))

    def end(self) -> None:
        """SIGTERM ends the node's processes with it; whatever is left is killed."""
        left = self._all()
        for process in (*self._nodes, self.process):
            process.send_signal(signal.SIGTERM)
        for raylet in self.pids("raylet/raylet"):
            with contextlib.suppress(ProcessLookupError):
                os.kill(raylet, signal.SIGTERM)
        with contextlib.suppress(AssertionError):
            poll(lambda: not any(map(exists, left)), within_s=20.0, what="the node is gone")
        for pid in filter(exists, left):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for process in (self.process, *self._nodes):
            process.wait()
        poll(lambda: not any(map(exists, left)), within_s=10.0, what="what was killed is gone")
        shutil.rmtree(self.folder, ignore_errors=True)


def _looks_started(process: "subprocess.Popen[bytes]", log: Path) -> bool:
    assert not process.poll(), log.read_text()[-2000:]
    return _STARTED in log.read_text()


def kill_node(node: "subprocess.Popen[bytes]") -> None:
    """SIGKILL to everything that runs on a node, at once."""
    for pid in [*descendants(node.pid), node.pid]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    node.wait()


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
