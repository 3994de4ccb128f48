"""One process of a fault test: started, killed, stopped, continued, restarted on its own port.

Rule: nothing is left behind. Every process is told its parent's pid, and `end_all` asserts that
all that were started are gone.
"""

import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}",
    "OMP_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "PASSIVE",
    "GRPC_VERBOSITY": "NONE",
}

_KERNELS_PORTS = Path("/proc/sys/net/ipv4/ip_local_port_range")
_given: set[int] = set()

Value = TypeVar("Value")

# children are told to end with their parent, which for the kernel is the thread that forked them:
# one that lives as long as this process
_FORKING = ThreadPoolExecutor(max_workers=1, thread_name_prefix="forking")


def poll(value: Callable[[], Value], *, within_s: float, what: str) -> Value:
    """The value once it is true; fails, saying `what` never came, when its time is over."""
    end_s = time.monotonic() + within_s
    while not (found := value()):
        assert time.monotonic() < end_s, f"{what}: not within {within_s:g} s"
        time.sleep(0.01)
    return found


def free_port() -> int:
    """A port that nobody listens on, and that stays free until whoever asked takes it.

    The kernel chooses from a range of its own, for port 0 and for every connection: this one lies
    below it, and is handed out once.
    """
    first = int(_KERNELS_PORTS.read_text().split()[0])
    for port in random.SystemRandom().sample(range(20_000, max(first, 30_000)), 1_000):
        with contextlib.suppress(OSError), socket.create_server(("0.0.0.0", port)):
            if port not in _given:
                _given.add(port)
                return port
    raise AssertionError("no free port")


class Process:
    """`python -m MODULE ARGUMENTS`; `address` stays the same over restarts."""

    def __init__(self, name: str, module: str, arguments: list[str], folder: Path) -> None:
        self.name = name
        self.module = module
        self.arguments = arguments
        self.log = folder / f"{name}.log"
        self.address = ""
        self._address_file = folder / f"{name}.json"
        self._folder = folder
        self._child: subprocess.Popen[bytes] | None = None
        self._is_stopped = False
        self.expected_dead = False
        """Whether the test itself ended it; any other end is a fault (I4)."""

    @property
    def pid(self) -> int:
        assert self._child is not None, f"{self.name} was not started"
        return self._child.pid

    @property
    def port(self) -> int:
        return int(self.address.rpartition(":")[2] or 0)

    @property
    def metrics_port(self) -> int:
        """Of its page, which it chose itself; another after a restart."""
        told = json.loads(self._address_file.read_text())
        return int(told["metrics"].rpartition(":")[2])

    @property
    def is_alive(self) -> bool:
        return self._child is not None and self._child.poll() is None

    @property
    def was_started(self) -> bool:
        return self._child is not None

    def launch(self) -> "Process":
        """Starts it and returns at once."""
        assert not self.is_alive, f"{self.name} runs already"
        self._address_file.unlink(missing_ok=True)
        with self.log.open("ab") as log:
            self._child = _FORKING.submit(
                subprocess.Popen,
                [sys.executable, "-m", self.module, *self.arguments, "--port", str(self.port),
                 "--address-file", str(self._address_file), "--parent-pid", str(os.getpid()),
                 "--metrics-port", "0", "--grace-s", "5"],
                cwd=self._folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                env=ENVIRONMENT | {"XDG_CACHE_HOME": str(self._folder)}, start_new_session=True,
            ).result()  # fmt: skip
        self.expected_dead = self._is_stopped = False
        return self

    def looks_started(self) -> bool:
        """Whether it says SERVING; fails where it has ended instead."""
        assert self.is_alive, f"{self.name} ended: {self.log.read_text()[-2000:]}"
        if not self._address_file.exists():
            return False
        self.address = json.loads(self._address_file.read_text())["address"]
        return is_serving(self.address)

    def wait_started(self, within_s: float = 60.0) -> "Process":
        """Returns when it says SERVING."""
        poll(self.looks_started, within_s=within_s, what=f"{self.name} serves")
        return self

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)
        if number in {signal.SIGKILL, signal.SIGTERM}:
            self.expected_dead = True

    def kill(self) -> None:
        """SIGKILL; returns when it is gone."""
        assert self._child is not None
        self.signal(signal.SIGKILL)
        self._child.wait(10)

    def stop(self) -> None:
        """SIGSTOP: its sockets stay open and nothing answers."""
        self.signal(signal.SIGSTOP)
        self._is_stopped = True

    def cont(self) -> None:
        """SIGCONT."""
        if self._is_stopped and self.is_alive:
            self.signal(signal.SIGCONT)
        self._is_stopped = False

    def terminate(self, within_s: float = 10.0) -> float:
        """SIGTERM; returns the seconds until it was gone."""
        assert self._child is not None
        begun_s = time.monotonic()
        self.signal(signal.SIGTERM)
        self._child.wait(within_s)
        return time.monotonic() - begun_s

    def end(self) -> None:
        """Ends it, whatever its state."""
        if self.is_alive:
            self.cont()
            try:
                self.terminate(8.0)
            except subprocess.TimeoutExpired:
                self.kill()

    def rss_bytes(self) -> int:
        """Memory of its own, without files that are mapped."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("RssAnon"):
                return int(line.split()[1]) << 10
        raise AssertionError("no RssAnon in /proc")

    def n_fds(self) -> int:
        return len(list(Path(f"/proc/{self.pid}/fd").iterdir()))


def is_serving(address: str) -> bool:
    """Whether the server says SERVING within some seconds."""
    options = (("grpc.use_local_subchannel_pool", 1),)
    with grpc.insecure_channel(address, options=options) as channel:
        try:
            reply = health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(), timeout=10
            )
        except grpc.RpcError:
            return False
        return reply.status == health_pb2.HealthCheckResponse.SERVING


def exists(pid: int) -> bool:
    """Whether a process of this pid is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
