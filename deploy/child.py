"""One child process: started, found by its address file, asked for its health, restarted, ended.

Rule: a child is never left behind. It runs in a session of its own, so that the terminal's Ctrl-C
reaches the launcher alone, and it is told its parent's pid, so that it ends when the launcher is
killed. Knows nothing of what the child serves.
"""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from deploy.plan import MODULES, ProcessSpec, Role, restart_delay_s
from deploy.state import ClusterPaths, ProcessState, start_time
from shoal.child_environment import import_environment
from shoal.errors import ConfigError, LockedError, ShoalError, StorageError, UnavailableError
from shoal.rpc.channel import open_channel

STEADY_S = 30.0
"""A process that lived this long has started well: its next crash is restarted at once."""

_POLL_S = 0.03
_TELLS = ": error: "


class Child:
    """A supervised process; `address` is "" until it listens, and stays the same over restarts.

    So does `http`, the URL of its HTTP port, "" where it has none.

    `spec` may be replaced; the next restart follows it.
    """

    def __init__(
        self, spec: ProcessSpec, paths: ClusterPaths, grace_s: float, *, tls: bool = False
    ) -> None:
        """Prepares the child; starts nothing.

        With `tls` its health is not asked for: the launcher may have no certificate to show.
        """
        self._tls = tls
        self.spec = spec
        self.address = ""
        self.http = ""
        self._log = paths.log(spec.name)
        self._address_file = paths.address(spec.name)
        self._grace_s = grace_s
        self._process: asyncio.subprocess.Process | None = None
        self._started = 0
        self._n_restarts = 0

    @property
    def state(self) -> ProcessState:
        """What the state file says of it."""
        return ProcessState(
            name=self.spec.name,
            role=self.spec.role,
            pid=self._process.pid if self._process else 0,
            started=self._started,
            address=self.address,
            n_restarts=self._n_restarts,
            log=str(self._log),
        )

    async def start(self, on_change: Callable[[], None]) -> None:
        """Starts the process, and returns when it serves.

        Raises:
            ShoalError: it ended before; with the last line that it wrote and its exit code's class.
        """
        self._log.unlink(missing_ok=True)
        await self._spawn(self.spec.port)
        on_change()
        assert self._process is not None
        ended = asyncio.ensure_future(self._process.wait())
        serving = asyncio.ensure_future(self._until_serving(on_change))
        try:
            await asyncio.wait({ended, serving}, return_when=asyncio.FIRST_COMPLETED)
            if not serving.done():
                raise self._early_end(ended.result())
            await serving
        finally:
            ended.cancel()
            serving.cancel()

    async def keep_running(self, say: Callable[[str], None], on_change: Callable[[], None]) -> None:
        """Restarts the process on the same port whenever it ends; runs until cancelled."""
        n_quick_deaths = 0
        while True:
            begun_s = time.monotonic()
            assert self._process is not None
            code = await self._process.wait()
            steady = time.monotonic() - begun_s >= STEADY_S
            n_quick_deaths = 1 if steady else n_quick_deaths + 1
            delay_s = restart_delay_s(n_quick_deaths)
            say(f"{self.spec.name}: ended with {how_ended(code)}; again in {delay_s:.1f} s")
            await asyncio.sleep(delay_s)
            self._n_restarts += 1
            await self._spawn(int(self.address.rpartition(":")[2]))
            on_change()

    async def stop(self) -> bool:
        """Asks the process to drain and end, and kills it when its grace is over.

        Returns whether there was a process to end.
        """
        process = self._process
        if process is None or process.returncode is not None:
            return False
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        try:
            # the process needs a moment beyond the grace that it gives its calls
            await asyncio.wait_for(process.wait(), self._grace_s + 2.0)
        except TimeoutError:
            await self.kill()
        return True

    async def kill(self) -> None:
        """Ends the process at once, if there is one."""
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()

    async def _spawn(self, port: int) -> None:
        self._address_file.unlink(missing_ok=True)
        command = [
            sys.executable, "-P", "-m", MODULES[self.spec.role], *self.spec.arguments,
            "--port", str(port), "--address-file", str(self._address_file),
            "--parent-pid", str(os.getpid()), "--grace-s", str(self._grace_s),
        ]  # fmt: skip
        if self.spec.http_port is not None:
            command += ["--http-port", self.http.rpartition(":")[2] or str(self.spec.http_port)]
        if not asks_for_page(self.spec.role, os.environ):
            command += ["--metrics-host", "127.0.0.1", "--metrics-port", "0"]
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env={**_environment(), **self.spec.environment},
            )
        self._started = start_time(self._process.pid)

    async def _until_serving(self, on_change: Callable[[], None]) -> None:
        assert self._process is not None
        while not self.address:
            self.address = read_address(self._address_file, self._process.pid)
            self.http = read_address(self._address_file, self._process.pid, "http")
            await asyncio.sleep(0 if self.address else _POLL_S)
        on_change()
        if self._tls:
            while not read_serving(self._address_file, self._process.pid):  # noqa: ASYNC110 -- as below
                await asyncio.sleep(_POLL_S)
            return
        async with open_channel(self.address) as channel:
            while not await is_serving(channel):  # noqa: ASYNC110 -- another process's state
                await asyncio.sleep(_POLL_S)

    def _early_end(self, code: int) -> ShoalError:
        message = told_reason(self._log) or f"{how_ended(code)}, without a word"
        return error_of_exit(
            code, f"{self.spec.name} could not start: {message} (log: {self._log})"
        )


def asks_for_page(role: Role, environment: Mapping[str, str]) -> bool:
    """Whether the operator says by the environment where such a process has its Prometheus page."""
    return f"SHOAL_{MODULES[role].upper()}__METRICS_PORT" in environment


def _environment() -> dict[str, str]:
    # the operator's own token is for the operator's commands, and RAY_* for Ray's workers
    ours = {
        name: value
        for name, value in os.environ.items()
        if name != "SHOAL_TOKEN" and not name.startswith("RAY_")
    }
    return {**ours, **import_environment()}


async def is_serving(channel: grpc.aio.Channel, timeout_s: float = 2.0) -> bool:
    """Whether the server behind `channel` says that all of it serves."""
    stub = health_pb2_grpc.HealthStub(channel)
    try:
        reply = await stub.Check(health_pb2.HealthCheckRequest(), timeout=timeout_s)
    except grpc.RpcError:
        return False
    return bool(reply.status == health_pb2.HealthCheckResponse.SERVING)


def read_address(path: Path, pid: int, what: str = "address") -> str:
    """The address that process `pid` wrote, or another that it wrote beside it (`what`); "" as long
    as there is none.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return ""
    return str(content.get(what, "")) if content.get("pid") == pid else ""


def read_serving(path: Path, pid: int) -> bool:
    """Whether process `pid` wrote that all of it serves."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return content.get("pid") == pid and bool(content.get("serving"))


def told_reason(path: Path) -> str:
    """Why a process ended, by its log: its last `PROGRAM: error: ` line, else its last line."""
    try:
        with path.open("rb") as log:
            log.seek(max(0, path.stat().st_size - 65536))
            text = log.read().decode("utf-8", "replace")
    except OSError:
        return ""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    told = [line.partition(_TELLS)[2] for line in lines if _TELLS in line]
    return (told or lines or [""])[-1]


def error_of_exit(code: int, message: str) -> ShoalError:
    """The error whose exit code is `code`, so that it ends the parent as it ended the child."""
    for cls in (ConfigError, StorageError, LockedError):
        if code == cls.exit_code:
            return cls(message)
    return UnavailableError(message)


def how_ended(code: int) -> str:
    """An exit status in words."""
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"
