"""Errors as HTTP: a status and one JSON line. Pure; knows no server.

Statuses are those of google.rpc.Code's own mapping, so that a gateway before the router and the
router agree.
"""

import json
import math
from typing import Any

import grpc

from shoal.errors import InvalidArgumentError, OverloadedError, ShoalError
from shoal.rpc.status import short_message

_STATUSES = {
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.FAILED_PRECONDITION: 400,
    grpc.StatusCode.UNAUTHENTICATED: 401,
    grpc.StatusCode.PERMISSION_DENIED: 403,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 429,
    grpc.StatusCode.CANCELLED: 499,
    grpc.StatusCode.UNIMPLEMENTED: 501,
    grpc.StatusCode.UNAVAILABLE: 503,
    grpc.StatusCode.DEADLINE_EXCEEDED: 504,
}
_CODES = {405: "UNIMPLEMENTED", 408: "DEADLINE_EXCEEDED", 413: "INVALID_ARGUMENT"} | {
    status: code.name for code, status in reversed(_STATUSES.items())
}


class TooLargeError(InvalidArgumentError):
    """The request's body is larger than the port reads."""


class SlowSenderError(ShoalError):
    """The request's body didn't come in time."""

    code = grpc.StatusCode.DEADLINE_EXCEEDED


def status_of(error: ShoalError) -> int:
    """The HTTP status that says the same as the error's gRPC code."""
    if isinstance(error, TooLargeError):
        return 413
    if isinstance(error, SlowSenderError):
        return 408
    return _STATUSES.get(error.code, 500)


def headers_of(error: ShoalError) -> dict[str, str]:
    """What goes with the status: when to come back, or how to show a token."""
    if isinstance(error, OverloadedError):
        return {"Retry-After": str(max(1, math.ceil(error.retry_after_s)))}
    if error.code is grpc.StatusCode.UNAUTHENTICATED:
        return {"WWW-Authenticate": 'Bearer realm="shoal"'}
    return {}


def line_of(error: ShoalError, request_id: str) -> bytes:
    """The error as one line of JSON."""
    told: dict[str, Any] = {"code": error.code.name, "message": short_message(error)}
    if isinstance(error, InvalidArgumentError) and error.field:
        told["field"] = error.field
    if isinstance(error, OverloadedError):
        told["retry_after_s"] = round(error.retry_after_s, 3)
    return _line(told, request_id)


def line_of_status(status: int, message: str, request_id: str) -> bytes:
    """What the HTTP server itself refuses, in the same form."""
    return _line({"code": _CODES.get(status, "UNKNOWN"), "message": message}, request_id)


def _line(told: dict[str, Any], request_id: str) -> bytes:
    told["request_id"] = request_id
    # messages may quote what a caller sent: a lone surrogate has no UTF-8
    return json.dumps({"error": told}, ensure_ascii=False).encode("utf-8", "replace") + b"\n"
