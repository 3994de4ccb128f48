"""One call's attempts: its time limit, its id, its retries, and what its failure is called.

What the blocking and the asyncio client share, with neither's way of waiting in it.
"""

import random
import uuid
from typing import Any

import grpc

from shoal.errors import (
    DeadlineExceededError,
    InternalError,
    InvalidArgumentError,
    ShoalError,
    UnavailableError,
)
from shoal.retry import pushback_ms_of, retry_delay_s
from shoal.rpc.channel import MAX_MESSAGE_BYTES
from shoal.rpc.deadline import Deadline, check_timeout
from shoal.rpc.request_id import METADATA_KEY, check_request_id
from shoal.rpc.status import error_of
from shoal.v1 import search_pb2 as pb


class Attempts:
    """One call's attempts: its deadline and id, and what to do after each failure."""

    def __init__(self, target: str, timeout_s: float, request_id: str | None) -> None:
        self._target = target
        self._timeout_s = timeout_s
        self._deadline = Deadline.after(check_timeout(timeout_s))
        self._request_id = uuid.uuid4().hex if request_id is None else check_request_id(request_id)
        self._n_made = 0

    def next(self) -> dict[str, Any]:
        """The arguments of the next attempt: what is left of the time, and the id."""
        self._n_made += 1
        return {
            "timeout": self._deadline.remaining_s(),
            "metadata": ((METADATA_KEY, self._request_id),),
        }

    def delay_s(self, failure: grpc.RpcError) -> float:
        """Seconds until the next attempt; raises the typed error where there is none."""
        error = error_of(failure, self._request_id)
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

    def _told(self, error: ShoalError) -> ShoalError:
        # what gRPC itself says here names neither the server nor the limit that was set
        if error.message.startswith("failed to connect"):
            why = error.message.rpartition(": ")[2]
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
