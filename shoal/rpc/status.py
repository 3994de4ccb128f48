"""Errors on the wire: any failure as a ShoalError, that as google.rpc.Status with its details, and
back.

INVALID_ARGUMENT carries BadRequest, overload RetryInfo, a reason ErrorInfo; too little coverage
also tells gRPC's own retries to stay away (`grpc-retry-pushback-ms: -1`, gRFC A6). A status comes
from another process and may hold anything: what can't be read is left out.
"""

import contextlib
from typing import Any, TypeVar

import grpc
from google.protobuf.message import DecodeError, Message
from google.rpc import code_pb2, error_details_pb2, status_pb2

from shoal import errors
from shoal.errors import ShoalError

STATUS_KEY = "grpc-status-details-bin"
PUSHBACK_KEY = "grpc-retry-pushback-ms"
DOMAIN = "shoal"
INSUFFICIENT_COVERAGE = "INSUFFICIENT_COVERAGE"
MAX_MESSAGE_BYTES = 1_000
_NEARLY_S = 0.05
"""A client's own deadline passes, and its call is cancelled, this much before the server's copy."""

Metadata = tuple[tuple[str, str | bytes], ...]

_BY_CODE: dict[grpc.StatusCode, type[ShoalError]] = {
    cls.code: cls
    for cls in (
        errors.NotFoundError,
        errors.FailedPreconditionError,
        errors.UnsupportedError,
        errors.UnavailableError,
        errors.DeadlineExceededError,
        errors.CancelledError,
        errors.UnauthenticatedError,
        errors.PermissionDeniedError,
        errors.InternalError,
    )
}


def as_shoal_error(failure: Exception) -> ShoalError:
    """The error to tell: ours as it is, a passed deadline as such, anything else as INTERNAL."""
    while isinstance(failure, ExceptionGroup) and len(failure.exceptions) == 1:
        failure = failure.exceptions[0]
    if isinstance(failure, ShoalError):
        return failure
    if isinstance(failure, TimeoutError):
        return errors.DeadlineExceededError("the deadline passed before the answer was ready")
    return errors.InternalError("internal error; the log has it under this request id")


def given_up_code(remaining_s: float | None) -> grpc.StatusCode:
    """How a call ended that nobody waits for any more: its time was up, or it was left. Pure."""
    if remaining_s is not None and remaining_s < _NEARLY_S:
        return grpc.StatusCode.DEADLINE_EXCEEDED
    return grpc.StatusCode.CANCELLED


def short_message(error: ShoalError) -> str:
    """The error's message, cut to what fits: gRPC drops a status of more than some 8 KiB."""
    encoded = error.message.encode()
    if len(encoded) <= MAX_MESSAGE_BYTES:
        return error.message
    return encoded[:MAX_MESSAGE_BYTES].decode(errors="ignore") + "…"


def to_status(error: ShoalError) -> status_pb2.Status:
    """The error as google.rpc.Status, with the details that its kind promises."""
    message = short_message(error)
    status = status_pb2.Status(code=error.code.value[0], message=message)
    if isinstance(error, errors.InvalidArgumentError):
        violation = error_details_pb2.BadRequest.FieldViolation(
            field=error.field, description=message
        )
        status.details.add().Pack(error_details_pb2.BadRequest(field_violations=[violation]))
    if isinstance(error, errors.OverloadedError):
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromNanoseconds(int(error.retry_after_s * 1e9))
        status.details.add().Pack(retry)
    reason = error.reason
    if isinstance(error, errors.InsufficientCoverageError):
        reason = reason or INSUFFICIENT_COVERAGE
    if reason:
        status.details.add().Pack(error_details_pb2.ErrorInfo(reason=reason, domain=DOMAIN))
    return status


def trailing_metadata(error: ShoalError) -> Metadata:
    """What goes with the error at the end of a call."""
    entries: Metadata = ((STATUS_KEY, to_status(error).SerializeToString()),)
    if isinstance(error, errors.InsufficientCoverageError):
        entries += ((PUSHBACK_KEY, "-1"),)
    return entries


def error_of(failure: grpc.RpcError, request_id: str = "") -> ShoalError:
    """The typed error of a failed call, as its server raised it; works for sync and aio calls."""
    code: grpc.StatusCode = failure.code()
    message: str = failure.details() or code.name
    trailing: Any = failure.trailing_metadata() or ()  # pairs, whatever their class
    packed = next((value for key, value in trailing if key == STATUS_KEY), b"")
    status = status_pb2.Status()
    # another kind of server may put something else there: its code and message remain
    with contextlib.suppress(DecodeError, TypeError):
        status.ParseFromString(packed)
    if status.code != code.value[0]:
        status = status_pb2.Status(code=code.value[0], message=message)
    return from_status(status, request_id)


def from_status(status: status_pb2.Status, request_id: str = "") -> ShoalError:
    """The typed error of a status."""
    reason = _detail(status, error_details_pb2.ErrorInfo()).reason
    code = _CODES.get(status.code, grpc.StatusCode.UNKNOWN)
    if code is grpc.StatusCode.INVALID_ARGUMENT:
        bad = _detail(status, error_details_pb2.BadRequest())
        field = bad.field_violations[0].field if bad.field_violations else ""
        return errors.InvalidArgumentError(status.message, field=field, request_id=request_id)
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        retry = _detail(status, error_details_pb2.RetryInfo())
        delay_s = retry.retry_delay.ToNanoseconds() / 1e9
        return errors.OverloadedError(status.message, retry_after_s=delay_s, request_id=request_id)
    if reason == INSUFFICIENT_COVERAGE:
        return errors.InsufficientCoverageError(
            status.message, request_id=request_id, reason=reason
        )
    cls = _BY_CODE.get(code)
    if cls is None:
        return errors.InternalError(f"{code.name}: {status.message}", request_id=request_id)
    return cls(status.message, request_id=request_id, reason=reason)


Detail = TypeVar("Detail", bound=Message)


def _detail(status: status_pb2.Status, empty: Detail) -> Detail:
    """`empty`, filled from the detail of its kind where there is a readable one."""
    for detail in status.details:
        if detail.Is(empty.DESCRIPTOR):
            with contextlib.suppress(DecodeError):
                detail.Unpack(empty)
    return empty


_CODES = {code.value[0]: code for code in grpc.StatusCode}
assert set(_CODES) == set(code_pb2.Code.values())
