"""A `POST /retrieve` server as a target: the FastAPI process over faiss of RL and RAG stacks.

It takes `{"queries": [...], "topk": 10, "return_scores": true}` and answers `{"result": [...]}`: a
list a query of `{"document": {"id": ..., "contents": ...}, "score": ...}`. Failures take the name
of the gRPC code that means the same, so that runs against both can be set side by side.
"""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import aiohttp

from shoal.bench.plan import LoadPlan
from shoal.bench.target import OK, TIMEOUT, Ids, Reply, Served
from shoal.credentials import Credentials, check_credentials
from shoal.errors import InvalidArgumentError, UnsupportedError
from shoal.target import host_port

PATH = "/retrieve"
MAX_CONNECTIONS = 512
"""Calls under way at once, a worker; HTTP/1.1 carries one a connection, and the rest waits."""

_CODES = {
    400: "INVALID_ARGUMENT", 401: "UNAUTHENTICATED", 403: "PERMISSION_DENIED", 404: "NOT_FOUND",
    405: "UNIMPLEMENTED", 408: TIMEOUT, 413: "INVALID_ARGUMENT", 422: "INVALID_ARGUMENT",
    429: "RESOURCE_EXHAUSTED", 501: "UNIMPLEMENTED", 502: "UNAVAILABLE", 503: "UNAVAILABLE",
    504: TIMEOUT,
}  # fmt: skip
_REFUSALS = {"INVALID_ARGUMENT", "UNAUTHENTICATED", "PERMISSION_DENIED", "NOT_FOUND",
             "UNIMPLEMENTED"}  # fmt: skip


@asynccontextmanager
async def open_target(plan: LoadPlan) -> AsyncIterator["HttpTarget"]:
    """The server at the plan's URL; without a path, its `/retrieve`.

    Raises:
        InvalidArgumentError: no URL, queries that are no texts, or a token in plaintext.
        CorpusError: the queries can't be read.
    """
    url = urlsplit(plan.target)
    if not url.hostname:
        raise InvalidArgumentError(f"the target {plan.target!r} has no host", field="target")
    if plan.vectors_file:
        raise InvalidArgumentError(f"a {PATH} server takes texts, not vectors", field="vectors")
    if plan.credentials.tls is not None:
        raise InvalidArgumentError("an https:// target is checked by the system's authorities")
    if url.scheme == "http":
        check_credentials(
            host_port(url.hostname, url.port or 80), Credentials(token=plan.credentials.token)
        )
    address = url._replace(path=url.path if url.path not in {"", "/"} else PATH).geturl()
    # its own limit must not be what a run measures
    connector = aiohttp.TCPConnector(limit=MAX_CONNECTIONS)
    timeout = aiohttp.ClientTimeout(total=plan.timeout_s)
    async with aiohttp.ClientSession(
        connector=connector, timeout=timeout, headers=dict(plan.credentials.metadata)
    ) as session:
        yield HttpTarget(plan, address, session)


class HttpTarget:
    """A server that answers one query list a request."""

    stages: tuple[str, ...] = ()

    def __init__(self, plan: LoadPlan, address: str, session: aiohttp.ClientSession) -> None:
        self._address = address
        self._session = session
        self._requests = [
            json.dumps({"queries": list(batch), "topk": plan.k, "return_scores": True}).encode()
            for batch in plan.batches()
        ]
        self._batch = plan.batch
        self.n_requests = len(self._requests)

    async def send(self, request: int, *, with_ids: bool) -> Reply:
        """One POST; an answer that is none of the agreed shape is INTERNAL."""
        code, body = await self._post(request)
        if code != OK:
            return Reply(code=code)
        found = ids_of(body, self._batch)
        if found is None:
            return Reply(code="INTERNAL")
        return Reply(code=OK, ids=found if with_ids else None)

    async def exact(self, request: int) -> Reply:  # noqa: ARG002 -- the interface
        """Not told by this shape."""
        raise UnsupportedError(f"a {PATH} server has no exact search; --truth names who has")

    async def refuse_bad_plan(self) -> Served:
        """One POST, whose refusal is raised."""
        code, body = await self._post(0)
        if code in _REFUSALS:
            raise InvalidArgumentError(f"{self._address} refuses: {code}: {str(body)[:200]}")
        if code == OK and ids_of(body, self._batch) is None:
            raise InvalidArgumentError(
                f"{self._address} doesn't answer as a {PATH} server: {str(body)[:200]}"
            )
        return Served()

    async def _post(self, request: int) -> tuple[str, Any]:
        headers = {"content-type": "application/json"}
        try:
            async with self._session.post(
                self._address, data=self._requests[request], headers=headers
            ) as response:
                body = await response.read()
                code = OK if response.status == 200 else _CODES.get(response.status, "INTERNAL")
        except TimeoutError:
            return TIMEOUT, None
        except (aiohttp.ClientError, OSError) as failure:
            return "UNAVAILABLE", failure
        try:
            return code, json.loads(body)
        except ValueError:
            return code, body


def ids_of(body: Any, n_queries: int) -> Ids | None:
    """The passages' ids, a tuple a query; None where the body hasn't the agreed shape.

    A passage without an id goes by its text.
    """
    try:
        found = tuple(
            tuple(_id(hit.get("document", hit)) for hit in of_query) for of_query in body["result"]
        )
    except (KeyError, TypeError, AttributeError):
        return None
    return found if len(found) == n_queries else None


def _id(document: Any) -> str:
    return str(document["id"] if "id" in document else document["contents"])
