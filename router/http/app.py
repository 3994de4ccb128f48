"""The HTTP port's routes, and what happens around each request, whatever it asks.

Rule: this is the one place where a failure becomes an answer; one of ours is logged under its
request id, and the caller gets the id and no internals.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace

import grpc
from aiohttp import web

from router.http.endpoints import INSIDE, Endpoints
from router.http.pages import SECURITY_HEADERS, Page, read_pages
from router.http.refusals import headers_of, line_of, line_of_status, status_of
from router.http.sending import send
from router.http.traces import begin_searches, traced
from router.http.visitors import Doorkeeper
from shoal.errors import InternalError, ShoalError
from shoal.rpc import metrics
from shoal.rpc.limits import MAX_MESSAGE_BYTES
from shoal.rpc.request_id import METADATA_KEY, adopt_request_id
from shoal.rpc.status import as_shoal_error
from shoal.tracing.tracer import Tracer

logger = logging.getLogger(__name__)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
HEALTH = "/health"
_RETRIEVE, _SEARCH = "Retrieve", "ConsoleSearch"
COUNTED_CALLS = frozenset({_RETRIEVE, _SEARCH})
"""What requests are called in `shoal_requests_total`."""
_TIMED = frozenset({"OK", "CANCELLED", "DEADLINE_EXCEEDED"})
"""Answered, or waited for in vain: refusals are quick, and would flatter the times."""


def application(
    endpoints: Endpoints, doorkeeper: Doorkeeper, tracer: Tracer | None = None
) -> web.Application:
    """The application, ready to run; without a `tracer` no search is traced."""
    pages = read_pages()
    around = _Around(doorkeeper, pages, tracer)
    if tracer is not None:
        endpoints = replace(endpoints, answer=traced(endpoints.answer))
    app = web.Application(middlewares=[around.handle], client_max_size=MAX_MESSAGE_BYTES)
    app.add_routes([
        web.post("/retrieve", endpoints.retrieve, name=_RETRIEVE),
        web.post("/api/search", endpoints.search, name=_SEARCH),
        web.get("/api/topology", endpoints.topology),
        web.get("/api/calibration", endpoints.calibration),
        web.get("/api/slow", endpoints.slow),
        web.get(HEALTH, endpoints.health),
        *(web.get(path, _serving(page)) for path, page in pages.items()),
    ])  # fmt: skip
    return app


def _serving(page: Page) -> Handler:
    headers = {"ETag": page.tag, "Cache-Control": "no-cache"}

    async def handle(request: web.Request) -> web.Response:
        if request.headers.get("If-None-Match") == page.tag:
            return web.Response(status=304, headers=headers)
        return web.Response(
            body=page.content, headers={**headers, "Content-Type": page.content_type}
        )

    return handle


class _Around:
    """Judges the caller, runs the handler, and writes its answer or its failure."""

    def __init__(
        self, doorkeeper: Doorkeeper, pages: Mapping[str, Page], tracer: Tracer | None
    ) -> None:
        self._doorkeeper = doorkeeper
        self._open = {*pages, HEALTH}
        self._pages = pages
        self._tracer = tracer
        for name in COUNTED_CALLS:  # 0 and not absent, so that an alarm sees the first
            metrics.REQUESTS.labels(name, grpc.StatusCode.INTERNAL.name)

    @web.middleware
    async def handle(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """One request, from its headers to the end of its answer."""
        begun_s = time.perf_counter()
        request_id = adopt_request_id(request.headers.get(METADATA_KEY, ""))
        if self._tracer is not None:
            begin_searches(self._tracer, request.headers, request_id)
        code = grpc.StatusCode.CANCELLED.name  # unless there is an answer
        try:
            answer, code = await self._answer(request, handler, request_id)
        finally:
            _count(request, code, time.perf_counter() - begun_s)
        answer.headers[METADATA_KEY] = request_id
        answer.headers.update(SECURITY_HEADERS)
        answer.headers.setdefault("Cache-Control", "no-store")
        return await send(request, answer)

    async def _answer(
        self, request: web.Request, handler: Handler, request_id: str
    ) -> tuple[web.Response, str]:
        """What to send, and the code that metrics count it as."""
        try:
            self._judge(request)
            answer = await handler(request)
        except web.HTTPException as refusal:  # no such path, or not by this method
            line = line_of_status(refusal.status, refusal.reason, request_id)
            allow = {"Allow": refusal.headers["Allow"]} if "Allow" in refusal.headers else {}
            return _failed(refusal.status, line, allow), "UNKNOWN"
        except asyncio.CancelledError:
            raise  # the caller left
        except Exception as failure:
            error = as_shoal_error(failure)
            if isinstance(error, InternalError):
                logger.exception("%s failed, request %s", request.path, request_id)
            line = line_of(error, request_id)
            return _failed(status_of(error), line, headers_of(error)), error.code.name
        assert isinstance(answer, web.Response), "handlers give whole answers"
        return answer, "OK"

    def _judge(self, request: web.Request) -> None:
        """Raises why the caller is refused."""
        is_open = request.path in self._open
        fault: ShoalError | None = self._doorkeeper.fault(
            request.headers, is_page=request.path in self._pages
        )
        if fault is None and not is_open:
            fault = self._doorkeeper.refusal(request.headers)
        if fault is not None:
            raise fault
        request[INSIDE] = not is_open and self._doorkeeper.sees_inside(request.headers)


def _count(request: web.Request, code: str, took_s: float) -> None:
    name = request.match_info.route.name
    if name is None:  # no search: names are a closed set
        return
    metrics.REQUESTS.labels(name, code).inc()
    if code in _TIMED:
        metrics.REQUEST_SECONDS.labels(name).observe(took_s)


def _failed(status: int, line: bytes, headers: Mapping[str, str]) -> web.Response:
    return web.Response(status=status, body=line, headers=headers, content_type="application/json")
