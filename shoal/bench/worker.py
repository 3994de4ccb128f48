"""One worker of a run: it makes its share of the calls, and tells what became of them.

Orders come as JSON lines on stdin, answers go as JSON lines to stdout. A generator that shares a
process with what it measures measures their struggle for one interpreter; and this one does
nothing else while a stage runs. Times are on `time.monotonic()`, which all processes share.
"""

import asyncio
import gc
import json
import selectors
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

from shoal.bench.adapters import open_target
from shoal.bench.drive import Call, closed_loop, open_loop
from shoal.bench.plan import LoadPlan
from shoal.bench.schedule import Stage, clients_of, due_times, share_of
from shoal.bench.tally import Recall, Slice, Tally, kind_of
from shoal.bench.tally_wire import slice_to_json, tally_to_json
from shoal.bench.target import Reply, Target
from shoal.bench.truth import Truth, sampled
from shoal.errors import InvalidArgumentError, ShoalError, UnsupportedError
from shoal.parent import die_with_parent

TICK_S = 0.5
_PULSE_S = 0.02
_SCHEDSTAT = Path("/proc/thread-self/schedstat")

Tell = Callable[[dict[str, Any]], None]


class Worker:
    """Worker `number` of `n_workers`; `tell` sends a line to whoever started it."""

    def __init__(
        self, plan: LoadPlan, target: Target, number: int, n_workers: int, tell: Tell
    ) -> None:
        self._plan = plan
        self._target = target
        self._number = number
        self._n_workers = n_workers
        self._tell = tell

    async def obey(self, order: dict[str, Any]) -> dict[str, Any]:
        """Does what an order says, and returns the answer to it."""
        match order["do"]:
            case "check":
                served = await self._target.refuse_bad_plan()
                return {"index": served.index, "version": served.version}
            case "truth":
                return await self._find_truth(order["n"], order["n_calls"], order["budget_s"])
            case _:
                truth = order["truth"] and Truth.from_json(order["truth"])
                stage, start_s, first = Stage(**order["stage"]), order["start_s"], order["first"]
                return tally_to_json(await self.run(stage, start_s, truth, first=first))

    async def run(
        self, stage: Stage, start_s: float, truth: Truth | None = None, *, first: int = 0
    ) -> Tally:
        """Runs this worker's share of a stage that begins at `start_s` with request `first`."""
        tally = Tally(stage, self._target.stages)
        tick = _Tick()

        async def send(number: int) -> Reply:
            request = (first + number) % self._target.n_requests
            compared = truth is not None and request in truth.ids
            return await self._target.send(request, with_ids=compared)

        def record(call: Call) -> None:
            tally.record(call)
            tick.record(call)
            request = (first + call.number) % self._target.n_requests
            if call.reply.ids is not None and truth is not None:
                recall = truth.recall_of(request, call.reply)
                tick.compare(recall)
                if stage.warmup_s <= call.due_s < stage.total_s:
                    tally.compare(request, recall)

        async with _beside(_pulse(tally, start_s)), _beside(self._tell_ticks(tick)):
            if stage.rate is not None:
                due = share_of(self._number, self._n_workers, due_times(stage, self._plan.seed))
                await open_loop(send, due, record, start_s=start_s)
            elif clients := clients_of(self._number, self._n_workers, stage.clients or 0):
                numbers = count(self._number, self._n_workers)
                await closed_loop(
                    send, numbers, record, clients=clients, total_s=stage.total_s, start_s=start_s
                )
        return tally

    async def _find_truth(
        self, n_wanted: int, n_calls: int | None, budget_s: float
    ) -> dict[str, Any]:
        """Exact answers to some requests, as many as the time allows, one after the other."""
        if not self._plan.truth_target:
            return await self._ask_exactly(self._target, n_wanted, n_calls, budget_s)
        elsewhere = replace(self._plan, target=self._plan.truth_target, adapter="grpc")
        async with open_target(elsewhere) as other:
            found = await self._ask_exactly(other, n_wanted, n_calls, budget_s)
        # passages go by the same ids there; its version is not the target's
        return {**found, "index": "", "version": 0} if "ids" in found else found

    async def _ask_exactly(
        self, target: Target, n_wanted: int, n_calls: int | None, budget_s: float
    ) -> dict[str, Any]:
        until_s = time.monotonic() + budget_s
        ids, served = {}, None
        try:
            for request in sampled(self._target.n_requests, n_wanted, n_calls, self._plan.seed):
                if time.monotonic() > until_s:
                    break
                reply = await target.exact(request)
                if served is not None and reply.served != served:
                    return {"why": "the index moved to another version meanwhile"}
                served, ids[request] = reply.served, reply.ids or ()
        except UnsupportedError as failure:
            return {"why": failure.message}
        if served is None:
            return {"why": "no time"}
        return Truth(served=served, ids=ids).to_json()

    async def _tell_ticks(self, tick: "_Tick") -> None:
        while True:
            await asyncio.sleep(TICK_S)
            self._tell({"tick": tick.take()})


class _Tick:
    """What happened since the last tick, for who watches."""

    def __init__(self) -> None:
        self._slice, self._recall = Slice(), Recall()

    def record(self, call: Call) -> None:
        kind = kind_of(call.reply)
        self._slice.latency.record(call.done_s - call.due_s)
        self._slice.n_answered += kind in {"ok", "degraded"}
        self._slice.n_degraded += kind == "degraded"
        self._slice.n_failed += kind in {"error", "timeout"}

    def compare(self, recall: float | None) -> None:
        if recall is not None:
            self._recall.n += 1
            self._recall.total += recall

    def take(self) -> dict[str, Any]:
        taken = {
            "slice": slice_to_json(self._slice),
            "recall": [self._recall.n, self._recall.total],
        }
        self._slice, self._recall = Slice(), Recall()
        return taken


async def _pulse(tally: Tally, start_s: float) -> None:
    """Measures how late this loop wakes up, and how busy it is, in the measured time."""
    await asyncio.sleep(max(0.0, start_s + tally.stage.warmup_s - time.monotonic()))
    end_s = start_s + tally.stage.total_s
    begun_s, begun_wanted_s = time.monotonic(), _wanted_s()
    while (now_s := time.monotonic()) < end_s:
        await asyncio.sleep(_PULSE_S)
        tally.loop_lag.record(max(0.0, time.monotonic() - now_s - _PULSE_S))
        tally.busy = (_wanted_s() - begun_wanted_s) / (time.monotonic() - begun_s)


def _wanted_s() -> float:
    """The seconds that this thread has run or waited for a core; what it ran where that is all."""
    try:
        ran_ns, waited_ns, _ = _SCHEDSTAT.read_text().split()
    except (OSError, ValueError):
        return time.thread_time()
    return (int(ran_ns) + int(waited_ns)) / 1e9


@asynccontextmanager
async def _beside(work: Any) -> AsyncIterator[None]:
    task = asyncio.ensure_future(work)
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def _serve(tell: Tell) -> None:
    first = json.loads(await asyncio.to_thread(sys.stdin.readline))
    die_with_parent(first["parent"], signal.SIGTERM)
    plan = LoadPlan.from_json(first["plan"])
    async with open_target(plan) as target:
        worker = Worker(plan, target, first["number"], plan.workers, tell)
        gc.freeze()  # what was imported and prepared is no garbage, and needn't be looked at
        tell({"done": {}})
        while line := await asyncio.to_thread(sys.stdin.readline):
            tell({"done": await worker.obey(json.loads(line))})


def main() -> None:
    """Serves orders until stdin ends; a failure is one line of JSON."""

    def tell(value: dict[str, Any]) -> None:
        sys.stdout.write(json.dumps(value) + "\n")
        sys.stdout.flush()

    # epoll wakes up on whole milliseconds, select on microseconds; a worker has few sockets
    loop = asyncio.SelectorEventLoop(selectors.SelectSelector())
    try:
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            runner.run(_serve(tell))
    except ModuleNotFoundError as failure:
        tell({"missing": failure.name})
        sys.exit(InvalidArgumentError.exit_code)
    except ShoalError as failure:
        tell({"failed": failure.message, "kind": type(failure).__name__})
        sys.exit(failure.exit_code)
