"""A load run: worker processes that share a plan, and their tallies as one report.

Rule: nothing is measured in this process; it only starts, orders, merges and ends. A worker that
dies or falls silent ends the run, because what it would have sent is missing from the figures.
"""

import asyncio
import contextlib
import json
import math
import os
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from typing import Any

from shoal import errors
from shoal.bench.plan import LoadPlan
from shoal.bench.report import LoadReport, summarize
from shoal.bench.schedule import Stage
from shoal.bench.tally import Recall, Slice
from shoal.bench.tally_wire import slice_from_json, tally_from_json
from shoal.bench.target import Served
from shoal.bench.truth import Truth
from shoal.child_environment import import_environment
from shoal.errors import InternalError, VerdictError

TRUTH_BUDGET_S = 5.0
"""How long exact answers may be asked for before a run: what comes by then is the sample."""

_START_S = 120.0
_GRACE_S = 30.0
_ALIGN_S = 0.05
_LINE_BYTES = 64 << 20
_SILENT_S = 10.0
"""A worker that tells nothing for as long hangs: ticks come twice a second."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tick:
    """What one worker saw in the last half second."""

    worker: int
    slice: Slice
    recall: Recall


OnTick = Callable[[Tick], None]


def run_load(plan: LoadPlan) -> LoadReport:
    """Runs `plan` in processes of its own and returns what they saw.

    Raises:
        ShoalError: the plan's queries can't be read or sent.
    """

    async def run() -> LoadReport:
        async with start_workers(plan) as workers:
            truth = None
            if plan.recall_sample:
                truth, _ = await workers.find_truth(plan.recall_sample, [plan.stage])
            return await workers.run(plan.stage, truth)

    return asyncio.run(run())


@asynccontextmanager
async def start_workers(plan: LoadPlan) -> AsyncIterator["Workers"]:
    """Starts the plan's workers, ready for orders; ends them however the block ends.

    Raises:
        ShoalError: the plan's queries can't be read or sent.
    """
    processes: list[asyncio.subprocess.Process] = []
    try:
        for _ in range(plan.workers):
            processes.append(  # noqa: PERF401 -- those that were started must be ended
                await asyncio.create_subprocess_exec(
                    sys.executable, "-m", "shoal.bench",
                    stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
                    limit=_LINE_BYTES, start_new_session=True,
                    env={**os.environ, **import_environment()},
                )
            )  # fmt: skip
        workers = Workers(plan, processes)
        await workers.introduce()
        yield workers
    finally:
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
        for process in processes:
            await process.communicate()


class Workers:
    """Running workers; made by `start_workers`."""

    def __init__(self, plan: LoadPlan, processes: Sequence[asyncio.subprocess.Process]) -> None:
        self._plan = plan
        self.processes = processes
        self._n_sent = 0

    @property
    def align_s(self) -> float:
        """How long an order takes to reach all workers, at most."""
        return _ALIGN_S * (1 + len(self.processes))

    @property
    def n_sent(self) -> int:
        """Calls of all stages so far, warm-ups too."""
        return self._n_sent

    async def introduce(self) -> None:
        """Hands every worker the plan, and waits until it has prepared its requests."""
        plan = self._plan.to_json()
        orders = [
            {"plan": plan, "number": number, "parent": os.getpid()}
            for number in range(len(self.processes))
        ]
        await self._order_all(orders, within_s=_START_S)

    async def refuse_bad_plan(self) -> Served:
        """Makes one call of the plan: what the target refuses for good it would refuse every time.

        Raises:
            ShoalError: the refusal; failures that may pass are the run's to count.
        """
        within_s = self._plan.timeout_s + _GRACE_S
        return Served(**await self._order(0, {"do": "check"}, within_s=within_s))

    async def find_truth(
        self, n_wanted: int, stages: Sequence[Stage], budget_s: float = TRUTH_BUDGET_S
    ) -> tuple[Truth | None, str]:
        """Has some of the requests of `stages` searched exactly, or says why that can't be."""
        order = {
            "do": "truth",
            "n": n_wanted,
            "n_calls": _expected_calls(stages),
            "budget_s": budget_s,
        }
        within_s = budget_s + self._plan.timeout_s + _GRACE_S
        found = await self._order(0, order, within_s=within_s)
        if "why" in found:
            return None, found["why"]
        return Truth.from_json(found), ""

    async def run(
        self,
        stage: Stage,
        truth: Truth | None = None,
        on_tick: OnTick = lambda _: None,
        *,
        start_s: float | None = None,
    ) -> LoadReport:
        """Runs one stage on all workers; `on_tick` hears of it twice a second from each.

        Requests go on where the last stage ended, so that no cache knows them from it.
        `start_s` is on `time.monotonic()`, a moment from now where it isn't given.
        """
        if start_s is None:
            start_s = time.monotonic() + self.align_s
        order = {
            "do": "run",
            "stage": asdict(stage),
            "start_s": start_s,
            "first": self._n_sent,
            "truth": truth and truth.to_json(),
        }
        within_s = stage.total_s + self._plan.timeout_s + _GRACE_S
        found = await self._order_all(
            [order] * len(self.processes), within_s=within_s, on_tick=on_tick
        )
        merged = tally_from_json(found[0])
        for values in found[1:]:
            merged.add(tally_from_json(values))
        self._n_sent += merged.n_sent
        return summarize(merged, self._plan)

    async def _order_all(
        self,
        orders: Sequence[dict[str, Any]],
        *,
        within_s: float,
        on_tick: OnTick = lambda _: None,
    ) -> list[dict[str, Any]]:
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(
                        self._order(number, order, within_s=within_s, on_tick=on_tick)
                    )
                    for number, order in enumerate(orders)
                ]
        except* errors.ShoalError as failures:
            raise failures.exceptions[0] from None
        except* ModuleNotFoundError as failures:
            raise failures.exceptions[0] from None
        return [task.result() for task in tasks]

    async def _order(
        self,
        number: int,
        order: dict[str, Any],
        *,
        within_s: float,
        on_tick: OnTick = lambda _: None,
    ) -> dict[str, Any]:
        process, told_s = self.processes[number], -math.inf
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            async with asyncio.timeout(within_s):
                process.stdin.write(json.dumps(order).encode() + b"\n")
                await process.stdin.drain()
                while True:
                    line = await process.stdout.readline()
                    told = _understand(line)
                    if "tick" not in told:
                        return told
                    told_s = time.monotonic()
                    on_tick(_tick_of(number, told["tick"]))
        except TimeoutError:
            if time.monotonic() - told_s < _SILENT_S:
                raise VerdictError(
                    f"load worker {number} still had calls to send after {within_s:.0f} s: the "
                    "generator can't make this load; ask for less, or give it more --workers"
                ) from None
            raise InternalError(f"load worker {number} fell silent for {within_s:.0f} s") from None
        except (BrokenPipeError, ConnectionResetError):
            raise InternalError(f"load worker {number} died") from None


def _expected_calls(stages: Sequence[Stage]) -> int | None:
    """How many calls the stages make; nobody knows of a closed loop."""
    n_calls = 0.0
    for stage in stages:
        if stage.rate is None:
            return None
        last = stage.rate if stage.to_rate is None else stage.to_rate
        n_calls += stage.rate * stage.warmup_s + (stage.rate + last) / 2 * stage.duration_s
    return int(n_calls)


def _understand(line: bytes) -> dict[str, Any]:
    """What a worker said, once it is no failure."""
    if not line:
        raise InternalError("a load worker died; what it wrote stands above")
    told: dict[str, Any] = json.loads(line)
    if "missing" in told:
        raise ModuleNotFoundError(f"No module named {told['missing']!r}", name=told["missing"])
    if "failed" in told:
        kind = getattr(errors, told["kind"], InternalError)
        raise kind(told["failed"])
    answer: dict[str, Any] = told.get("done", told)
    return answer


def _tick_of(worker: int, values: dict[str, Any]) -> Tick:
    return Tick(
        worker=worker,
        slice=slice_from_json(values["slice"]),
        recall=Recall(*values["recall"]),
    )
