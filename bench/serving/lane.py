"""A contestant under one kind of load: the load workers aimed at it, and what befell them.

Rule: nothing waits without a bound, and a failure costs no more than its cell: the workers are
ended, and new ones take their place at the next turn. A lane that failed too often is closed.
"""

import asyncio
import subprocess
import time
from contextlib import AsyncExitStack
from typing import NoReturn

from shoal.bench.load import Workers, start_workers
from shoal.bench.plan import LoadPlan
from shoal.bench.report import LoadReport
from shoal.bench.schedule import Stage
from shoal.bench.target import Ids
from shoal.bench.truth import Truth
from shoal.errors import ShoalError, UnavailableError

_OPEN_S = 60.0
_GRACE_S = 5.0
_MOST_FAILURES = 2


class Lane:
    """Runs stages of one plan, one after the other; `truth` is what exact search finds."""

    def __init__(self, plan: LoadPlan, truth: dict[int, Ids]) -> None:
        self._plan = plan
        self._truth = truth
        self._stack = AsyncExitStack()
        self._open: tuple[Workers, Truth] | None = None
        self._n_failures = 0
        self.failure = ""

    async def run(self, stage: Stage, until_s: float) -> LoadReport:
        """One stage's report, with at least one answer in it.

        Args:
            stage: the load.
            until_s: on `time.monotonic()`; it isn't waited for longer, whatever is under way.

        Raises:
            UnavailableError: there is none, and why.
        """
        if self._n_failures >= _MOST_FAILURES:
            raise UnavailableError(f"given up: {self.failure}")
        try:
            async with asyncio.timeout_at(min(until_s, time.monotonic() + _OPEN_S)):
                workers, truth = self._open or await self._start()
            bound_s = stage.total_s + self._plan.timeout_s + _GRACE_S
            async with asyncio.timeout_at(min(until_s, time.monotonic() + bound_s)):
                report = await workers.run(stage, truth)
        except TimeoutError:
            await self._fail("its time ran out")
        except (ShoalError, OSError, ModuleNotFoundError) as failure:
            await self._fail(in_words(failure))
        if not report.ok_ms.n + report.degraded_ms.n:
            codes = ", ".join(f"{n:,} {code}" for code, n in sorted(report.errors.items()))
            await self._fail(f"every call failed: {codes}" if codes else "no call was answered")
        return report

    async def close(self) -> None:
        """Ends the workers."""
        self._open = None
        await self._stack.aclose()

    async def _start(self) -> tuple[Workers, Truth]:
        workers = await self._stack.enter_async_context(start_workers(self._plan))
        served = await workers.refuse_bad_plan()
        self._open = (workers, Truth(served=served, ids=self._truth))
        return self._open

    async def _fail(self, why: str) -> NoReturn:
        self._n_failures += 1
        self.failure = why
        await self.close()
        raise UnavailableError(why)


def in_words(failure: BaseException) -> str:
    """One line about a failure."""
    if isinstance(failure, subprocess.CalledProcessError) and failure.stderr:
        return str(failure.stderr).strip().splitlines()[-1]
    text = getattr(failure, "message", "") or str(failure) or type(failure).__name__
    return str(text).splitlines()[0]
