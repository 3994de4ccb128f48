"""One call's attempts: its time limit, its id, its retries, and what its failure is called.

What the blocking and the asyncio client share, with neither's way of waiting in it.
"""

import random
import uuid
from typing import Any

import grpc

from shoal.credentials import NO_CREDENTIALS, Credentials
from shoal.errors import (
    DeadlineExceededError,
    InternalError,
    InvalidArgumentError,
    ShoalError,
    UnavailableError,
)
from shoal.retry import pushback_ms_of, retry_delay_s
from shoal.rpc.deadline import TIMEOUT_KEY, Deadline, check_timeout
from shoal.rpc.handshake import PROBE_TIMEOUT_S, TLS_HANDSHAKE, handshake_fault, is_unmade, probe
from shoal.rpc.limits import MAX_MESSAGE_BYTES
from shoal.rpc.request_id import METADATA_KEY, check_request_id
from shoal.rpc.status import error_of
from shoal.tracing.caller import propagated
from shoal.v1 import search_pb2 as pb

_NOT_SERVING = "backend unhealthy"
"""gRPC's words where health says NOT_SERVING of all that were reached."""


class Attempts:
    """One call's attempts: its deadline and id, and what to do after each failure."""

    def __init__(
        self,
        target: str,
        timeout_s: float,
        request_id: str | None,
        credentials: Credentials = NO_CREDENTIALS,
    ) -> None:
        self._target = target
        self._credentials = credentials
        self._is_probed = False
        self._timeout_s = timeout_s
        self._deadline = Deadline.after(check_timeout(timeout_s))
        self._request_id = uuid.uuid4().hex if request_id is None else check_request_id(request_id)
        self._n_made = 0
        self._trace = propagated()

    def next(self) -> dict[str, Any]:
        """The arguments of the next attempt: what is left of the time, and the id."""
        self._n_made += 1
        timeout_s = self._deadline.remaining_s()
        return {
            "timeout": timeout_s,
            "metadata": (
                (METADATA_KEY, self._request_id),
                (TIMEOUT_KEY, f"{1e3 * timeout_s:.0f}"),
                *self._credentials.metadata,
                *self._trace,
            ),
        }

    def needs_probe(self, failure: grpc.RpcError) -> bool:
        """Whether no connection was made and gRPC doesn't say why; true at most once a call."""
        error = error_of(failure)
        unclear = not self._is_probed and is_unmade(error.message) and not self._fault(error)
        self._is_probed = self._is_probed or unclear
        return unclear

    def probe(self) -> str:
        """What a second look at the server shows of the handshake; blocks, 1 s a step at most."""
        limit_s = max(0.01, min(PROBE_TIMEOUT_S, self._deadline.remaining_s()))
        return probe(self._target, self._credentials.tls, limit_s)

    def delay_s(self, failure: grpc.RpcError, probed: str = "") -> float:
        """Seconds until the next attempt; raises the typed error where there is none.

        A handshake that failed would fail again, so it isn't tried again; `probed` is what `probe`
        told, where it was asked.
        """
        error = error_of(failure, self._request_id)
        self._refuse_handshake(error, probed)
        trailing: Any = failure.trailing_metadata()
        delay_s = retry_delay_s(
            error,
            pushback_ms=pushback_ms_of(trailing),
            attempt=self._n_made,
            remaining_s=self._deadline.remaining_s(),
            chance=random.random(),
        )
        if delay_s is None:
            raise self._told(error) from None
        return delay_s

    def unready(self, failure: grpc.RpcError, probed: str) -> str:
        """Why the server doesn't serve yet; raises where waiting won't help, as `delay_s`."""
        error = error_of(failure)
        self._refuse_handshake(error, probed)
        return error.message

    def _refuse_handshake(self, error: ShoalError, probed: str) -> None:
        if fault := probed or self._fault(error):
            raise UnavailableError(
                f"no connection to {self._target}: {fault}",
                request_id=self._request_id,
                reason=TLS_HANDSHAKE,
            ) from None

    def _fault(self, error: ShoalError) -> str:
        if not isinstance(error, UnavailableError) or not is_unmade(error.message):
            return ""
        return handshake_fault(error.message, self._target, self._credentials.tls)

    def _told(self, error: ShoalError) -> ShoalError:
        # what gRPC itself says here names neither the server nor the limit that was set
        if is_unmade(error.message):
            why = error.message.rpartition(": ")[2]
            if why == _NOT_SERVING:
                why = "it is there, and is starting or ending"
            return UnavailableError(
                f"no server answers at {self._target} ({why})",
                request_id=self._request_id,
            )
        if isinstance(error, DeadlineExceededError):
            return DeadlineExceededError(
                f"no answer from {self._target} within {self._timeout_s:g} s",
                request_id=self._request_id,
            )
        return error


def refuse_oversized(n_bytes: int) -> None:
    """Raises InvalidArgumentError for a request that no server takes.

    gRPC would say RESOURCE_EXHAUSTED, which means "come back later" everywhere else.
    """
    if n_bytes > MAX_MESSAGE_BYTES:
        raise InvalidArgumentError(
            f"the request has {n_bytes:,} bytes, at most {MAX_MESSAGE_BYTES:,} are taken; "
            "split the call",
            field="queries",
        )


def checked(response: pb.SearchResponse, request: pb.SearchRequest) -> pb.SearchResponse:
    """The response, once it holds a result a query; InternalError otherwise."""
    if len(response.results) != len(request.queries):
        raise InternalError(
            f"{len(response.results)} results came for {len(request.queries)} queries",
            request_id=response.request_id,
        )
    return response


def not_ready(target: str, timeout_s: float, why: str) -> UnavailableError:
    """What `wait_ready` raises when its time is over."""
    return UnavailableError(f"{target} is not ready after {timeout_s:g} s: {why}")
