"""`shoal bench --self-check`: does the generator tell what a server of known behaviour did?

1. A server is stopped (SIGSTOP) for 6 s of a 10 s run at 100 calls a second. The call due at t
   within the stop is answered at its end, so 600 calls wait evenly from 0 to 6 s and 400 hardly at
   all: of the 1,000 sorted, the 500th is the 100th of those that wait, 1.0 s; the 900th 5.0 s; the
   990th 5.9 s. A generator that waits for answers before it sends again would show milliseconds
   (Gil Tene's "coordinated omission"). What piled up takes the server a moment, longer on a busy
   machine: it tells when it gave each answer, and that moment is its own and not the generator's.
2. On a server that takes 0.2 s a call, whatever the load, both loops must show 0.2 s, and the open
   loop must have been answered as often as it asked.
"""

import asyncio
import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from shoal.bench.load import start_workers
from shoal.bench.plan import LoadPlan
from shoal.bench.report import LoadReport
from shoal.bench.schedule import Stage, due_times
from shoal.child_environment import import_environment
from shoal.errors import InternalError

TOLERANCE = 0.10

_RATE = 100.0
_RUN_S, _FREEZE_AT_S, _FREEZE_S = 10.0, 2.0, 6.0
_DELAY_S, _CLIENTS, _HEALTHY_S = 0.2, 20, 1.0
_WARMUP_S = 0.3
_SERVER_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One figure of the check: what it must be, and what the generator showed.

    `server_took` is what the server says that it took beyond `wanted`.
    """

    name: str
    wanted: float
    found: float
    unit: str
    server_took: float = 0.0

    @property
    def holds(self) -> bool:
        """Whether it is within the tolerance."""
        return abs(self.found - self.wanted - self.server_took) <= TOLERANCE * self.wanted


def frozen_findings(report: LoadReport, witnessed_s: Sequence[float]) -> list[Finding]:
    """The figures of the run against the stopped server, and the waits that it says itself."""
    latency = report.latency_ms
    waits_s = sorted(witnessed_s)
    figures = (("p50", 0.5, latency.p50), ("p90", 0.9, latency.p90), ("p99", 0.99, latency.p99))
    findings = [
        Finding(name="calls of the 10 s, none left out", wanted=_RATE * _RUN_S,
                found=latency.n, unit="")
    ]  # fmt: skip
    for name, share, found_ms in figures:
        wanted_s = _FREEZE_S - _RUN_S * (1 - share)
        server_took_s = waits_s[int(share * len(waits_s))] - wanted_s if waits_s else 0.0
        findings.append(
            Finding(name=f"server stopped for 6 s: {name}", wanted=wanted_s, unit="s",
                    found=found_ms / 1e3, server_took=max(0.0, server_took_s))
        )  # fmt: skip
    return findings


def waits(answered_s: Mapping[str, float], due_s: Sequence[float]) -> list[float]:
    """How long each call waited by the server's own record; call i asks "i"."""
    return [answered_s[str(i)] - due for i, due in enumerate(due_s) if str(i) in answered_s]


def healthy_findings(closed: LoadReport, opened: LoadReport) -> list[Finding]:
    """The figures of both loops against the healthy server."""
    delay_ms = 1e3 * _DELAY_S
    return [
        Finding(name="healthy server, closed loop: p50", wanted=delay_ms,
                found=closed.latency_ms.p50, unit="ms"),
        Finding(name="healthy server, open loop: p50", wanted=delay_ms,
                found=opened.latency_ms.p50, unit="ms"),
        Finding(name="healthy server: answers of the open loop at the closed one's rate",
                wanted=closed.calls_per_s, found=opened.calls_per_s, unit="/s"),
    ]  # fmt: skip


async def self_check(*, workers: int = 2) -> list[Finding]:
    """Runs both checks with real servers, some 14 s; every finding must hold."""
    return [*await _frozen(workers), *await _healthy(workers)]


async def _frozen(workers: int) -> list[Finding]:
    async with _tiny_server(0.0) as (target, server):
        n_calls = int(_RATE * (_WARMUP_S + _RUN_S))
        plan = LoadPlan(target=target, rate=_RATE, duration_s=_RUN_S, warmup_s=_WARMUP_S,
                        timeout_s=20.0, workers=workers,
                        texts=tuple(map(str, range(n_calls))))  # fmt: skip
        async with start_workers(plan) as load, asyncio.TaskGroup() as group:
            start_s = time.monotonic() + load.align_s
            group.create_task(_freeze(server, start_s + _WARMUP_S + _FREEZE_AT_S))
            running = group.create_task(load.run(plan.stage, start_s=start_s))
        due_s = [start_s + due for due in due_times(plan.stage)]
        n_warm = int(_RATE * _WARMUP_S)
        witnessed_s = waits(await _ended(server), due_s)[n_warm:]
    return frozen_findings(running.result(), witnessed_s)


async def _healthy(workers: int) -> list[Finding]:
    async with _tiny_server(_DELAY_S) as (target, _):
        plan = LoadPlan(target=target, clients=_CLIENTS, duration_s=_HEALTHY_S,
                        warmup_s=_WARMUP_S, workers=workers)  # fmt: skip
        async with start_workers(plan) as load:
            closed = await load.run(plan.stage)
            at_its_rate = Stage(rate=closed.calls_per_s, duration_s=_HEALTHY_S, warmup_s=_WARMUP_S)
            opened = await load.run(at_its_rate)
    return healthy_findings(closed, opened)


async def _freeze(server: asyncio.subprocess.Process, at_s: float) -> None:
    await asyncio.sleep(at_s - time.monotonic())
    server.send_signal(signal.SIGSTOP)
    try:
        await asyncio.sleep(at_s + _FREEZE_S - time.monotonic())
    finally:
        server.send_signal(signal.SIGCONT)


async def _ended(server: asyncio.subprocess.Process) -> dict[str, float]:
    """Ends the server in order, and returns when it answered each query."""
    server.terminate()
    assert server.stdout is not None
    async with asyncio.timeout(_SERVER_S):
        answered_s: dict[str, float] = json.loads(await server.stdout.readline())
    return answered_s


@asynccontextmanager
async def _tiny_server(delay_s: float) -> AsyncIterator[tuple[str, asyncio.subprocess.Process]]:
    server = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "shoal.bench.tiny_server", str(delay_s),
        stdout=asyncio.subprocess.PIPE, start_new_session=True, limit=1 << 20,
        env={**os.environ, **import_environment()},
    )  # fmt: skip
    try:
        assert server.stdout is not None
        async with asyncio.timeout(_SERVER_S):
            port = (await server.stdout.readline()).decode().strip()
        if not port:
            raise InternalError("the self-check's server didn't start")
        yield f"127.0.0.1:{port}", server
    finally:
        with contextlib.suppress(ProcessLookupError):
            server.kill()
        await server.communicate()
