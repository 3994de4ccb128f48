"""What the HTTP port answers: read, ask the router's own search or state, write.

Every search goes the way of gRPC's: the same checks, admission, deadline, retries and metrics.
"""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from router.http import asking, overview, retrieve
from router.http.bodies import read_object
from router.served import Served, describe
from router.slow_queries import Answer, SlowQueries
from shoal.errors import InvalidArgumentError
from shoal.rpc.deadline import DEFAULT_TIMEOUT_S, Deadline

TIMEOUT_HEADER = "X-Timeout-Ms"
MAX_TIMEOUT_MS = 600_000
INSIDE = web.RequestKey("inside", bool)
"""Whether this caller sees the inside of the cluster; set before an endpoint is asked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoints:
    """The router behind them: its search, what it serves, its load, its slow searches."""

    answer: Answer
    served: Callable[[], Served]
    n_in_flight: Callable[[], int]
    slow_queries: SlowQueries

    async def retrieve(self, request: web.Request) -> web.Response:
        """`POST /retrieve`."""
        asked = retrieve.asked_of(await read_object(request))
        deadline = deadline_of(request, retrieve.TIMEOUT_S)
        return _json(await retrieve.retrieve(asked, self.answer, deadline))

    async def search(self, request: web.Request) -> web.Response:
        """`POST /api/search`: one question."""
        wanted = asking.search_of(await read_object(request))
        deadline = deadline_of(request, DEFAULT_TIMEOUT_S)
        return _dumped(asking.answer_of(await self.answer(wanted, deadline)))

    async def topology(self, request: web.Request) -> web.Response:
        """`GET /api/topology`: who serves what, now."""
        told = overview.topology(self.served(), self.n_in_flight(), inside=request[INSIDE])
        return _dumped(told)

    async def calibration(self, request: web.Request) -> web.Response:
        """`GET /api/calibration?index=NAME`: the measured points of the version served."""
        index = self.served().index(request.query.get("index", ""))
        return _dumped(overview.calibration(describe(index)))

    async def slow(self, request: web.Request) -> web.Response:
        """`GET /api/slow`: the slowest searches of the last minutes."""
        recent = self.slow_queries.recent(time.monotonic())
        inside = request[INSIDE]
        queries = [overview.slow_query(query, inside=inside) for query in recent]
        return _dumped({"shows_questions": inside, "queries": queries})

    async def health(self, request: web.Request) -> web.Response:  # noqa: ARG002 -- aiohttp's
        """`GET /health`: 200 where a search of some index can be whole, else 503. Open to all."""
        there = any(index.coverage() == 1.0 for index in self.served().indexes.values())
        return _dumped({"status": "ok" if there else "unavailable"}, status=200 if there else 503)


def deadline_of(request: web.Request, default_s: float) -> Deadline:
    """The caller's deadline, by X-Timeout-Ms, or `default_s` from now. Raises
    InvalidArgumentError.
    """
    given = request.headers.get(TIMEOUT_HEADER)
    if given is None:
        return Deadline.after(default_s)
    if not given.isdecimal() or len(given) > 9 or not 1 <= int(given) <= MAX_TIMEOUT_MS:
        raise InvalidArgumentError(
            f"{TIMEOUT_HEADER} is {given[:32]!r}; it must be 1 to {MAX_TIMEOUT_MS}",
            field=TIMEOUT_HEADER,
        )
    return Deadline.after(int(given) / 1e3)


def _dumped(content: dict[str, Any], *, status: int = 200) -> web.Response:
    return _json(json.dumps(content, ensure_ascii=False).encode("utf-8", "replace"), status=status)


def _json(body: bytes, *, status: int = 200) -> web.Response:
    return web.Response(body=body, status=status, content_type="application/json")
