"""faiss in the worker's own process as a load's target: what a script over the library would do.

Rule: one thread searches, as faiss wants it, with all the cores that OpenMP gives it; calls wait
for it in line, and their waiting is theirs. Questions are encoded by the index's own model.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from router.candidates import shard_candidates, wanted_candidates
from shard_server.bare import BareIndex
from shoal.bench.plan import LoadPlan
from shoal.bench.queries import Batch
from shoal.bench.target import OK, TIMEOUT, Reply, Served
from shoal.errors import ConfigError, InvalidArgumentError
from shoal.vectors import Matrix

if TYPE_CHECKING:
    from deploy.evaluation.offline_encoder import Offline

STAGES = ("queue", "encode", "search", "fetch")
_TOO_LATE = Reply(code=TIMEOUT)


@asynccontextmanager
async def open_target(plan: LoadPlan) -> AsyncIterator["FaissTarget"]:
    """The index in the folder that is the plan's target.

    Raises:
        IndexFormatError, ConfigError, CorpusError: index, model or queries can't be used.
        InvalidArgumentError: an option that only a router knows.
    """
    if plan.options.get("target_recall") is not None:
        raise InvalidArgumentError("--target-recall is the router's; give --n-probe")
    with ThreadPoolExecutor(1) as thread:
        target = await asyncio.get_running_loop().run_in_executor(thread, FaissTarget, plan, thread)
        yield target


class FaissTarget:
    """An index in memory, and the model where texts are asked."""

    stages = STAGES

    def __init__(self, plan: LoadPlan, thread: ThreadPoolExecutor) -> None:
        self._plan = plan
        self._thread = thread
        self._batches = plan.batches()
        self.n_requests = len(self._batches)
        self._index = BareIndex(Path(plan.target))
        manifest = self._index.manifest
        self._served = Served(index=manifest.name, version=manifest.version)
        self._n_probe = plan.options.get("n_probe") or manifest.default_n_probe
        oversample = plan.options.get("oversample")
        if oversample is None:
            oversample = manifest.default_oversample
        wanted = wanted_candidates(plan.k, oversample)
        self._candidates = [
            shard_candidates(wanted, n_live, manifest.n_live) if wanted else 0
            for n_live in self._index.n_live
        ]
        with_text = plan.options.get("fields") != ()
        self._columns = ("id", "title", "text") if with_text else ("id",)
        self._encode = None if plan.vectors_file else _encoder(self._index)

    async def send(self, request: int, *, with_ids: bool) -> Reply:
        """One search on the one thread; one whose time is over before its turn isn't searched."""
        asked_s = time.monotonic()
        loop = asyncio.get_running_loop()
        searching = loop.run_in_executor(self._thread, self._search, request, asked_s, with_ids)
        try:
            return await asyncio.wait_for(searching, self._plan.timeout_s)
        except TimeoutError:
            return _TOO_LATE

    async def exact(self, request: int) -> Reply:
        """Brute force over the stored vectors."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, self._exact, request)

    async def refuse_bad_plan(self) -> Served:
        """One search; what it raises is raised."""
        await self.send(0, with_ids=False)
        return self._served

    def _search(self, request: int, asked_s: float, with_ids: bool) -> Reply:  # noqa: FBT001 -- an executor takes no keywords
        begun_s = time.monotonic()
        if begun_s - asked_s > self._plan.timeout_s:
            return _TOO_LATE
        vectors = self._vectors(self._batches[request])
        encoded_s = time.monotonic()
        if self._plan.options.get("exact"):
            segments, rows = self._index.exact(vectors, self._plan.k)
        else:
            segments, rows = self._index.search(
                vectors, self._plan.k, n_probe=self._n_probe, candidates=self._candidates
            )
        searched_s = time.monotonic()
        found = [
            self._index.passages(of_query, its_rows, self._columns)[0]
            for of_query, its_rows in zip(segments, rows, strict=True)
        ]
        times_s = (asked_s, begun_s, encoded_s, searched_s, time.monotonic())
        return Reply(
            code=OK,
            coverage=1.0,
            stages_ms=tuple(np.diff(times_s) * 1e3),
            served=self._served,
            ids=tuple(map(tuple, found)) if with_ids else None,
        )

    def _exact(self, request: int) -> Reply:
        segments, rows = self._index.exact(self._vectors(self._batches[request]), self._plan.k)
        ids = tuple(
            tuple(self._index.passages(of_query, its_rows, ("id",))[0])
            for of_query, its_rows in zip(segments, rows, strict=True)
        )
        return Reply(code=OK, coverage=1.0, served=self._served, ids=ids)

    def _vectors(self, batch: Batch) -> Matrix:
        if isinstance(batch, tuple):
            assert self._encode is not None
            return self._encode.encode_queries(batch)
        return np.ascontiguousarray(batch, dtype=np.float32)


def _encoder(index: BareIndex) -> "Offline":
    if index.manifest.encoder is None:
        raise ConfigError("the index holds bare vectors: ask it with --vectors or --sample")
    from deploy.evaluation.offline_encoder import open_offline  # noqa: PLC0415 -- loads torch

    return open_offline(index.manifest.encoder, "cpu", whole_texts=False)
