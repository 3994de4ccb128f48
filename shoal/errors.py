"""What can go wrong, as one short tree; each class owns its gRPC status and its exit code.

ShoalError
├── InvalidArgumentError       the request is wrong; `field` names where
├── NotFoundError              no such index
├── FailedPreconditionError    the request can't hold here: another encoder, another version
├── UnsupportedError           the contract knows it, this release doesn't serve it
├── OverloadedError            come back after `retry_after_s`
├── UnavailableError           a process that is needed is not there
│   └── InsufficientCoverageError   too few shards answered; asking again at once won't help
├── DeadlineExceededError      the time limit passed
├── CancelledError             the caller left
├── UnauthenticatedError, PermissionDeniedError
├── InternalError              our bug
└── LocalError                 never on the wire: what commands and processes meet on their machine
    ├── ConfigError            a setting
    ├── IndexFormatError       an index that can't be read or doesn't verify
    ├── CorpusError            a corpus, queries or qrels file; begins with file:line
    ├── StorageError           disk full, read-only, unreadable
    ├── LockedError            somebody else is writing
    └── VerdictError           a measurement that says no

The exit codes are those of sysexits.h. Knows nothing of protobuf; `shoal.rpc.status` puts errors on
the wire and takes them off again.
"""

from typing import ClassVar

import grpc


class ShoalError(Exception):
    """Base of all. `request_id` is the failed call's, where there was one."""

    code: ClassVar[grpc.StatusCode] = grpc.StatusCode.UNKNOWN
    exit_code: ClassVar[int] = 70

    def __init__(self, message: str, *, request_id: str = "", reason: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.request_id = request_id
        self.reason = reason
        """A short constant for programs (google.rpc.ErrorInfo.reason), such as WRONG_VERSION."""


class InvalidArgumentError(ShoalError):
    """The request is wrong whatever the state of the server; `field` is the path of the fault."""

    code = grpc.StatusCode.INVALID_ARGUMENT
    exit_code = 64

    def __init__(self, message: str, *, field: str = "", request_id: str = "") -> None:
        super().__init__(message, request_id=request_id)
        self.field = field


class NotFoundError(ShoalError):
    """No such index."""

    code = grpc.StatusCode.NOT_FOUND
    exit_code = 66


class FailedPreconditionError(ShoalError):
    """The request can't be served in the present state, and asking again won't change it."""

    code = grpc.StatusCode.FAILED_PRECONDITION
    exit_code = 78


class UnsupportedError(ShoalError):
    """A part of the contract that this release doesn't serve."""

    code = grpc.StatusCode.UNIMPLEMENTED
    exit_code = 64


class OverloadedError(ShoalError):
    """No room; `retry_after_s` is when to come back."""

    code = grpc.StatusCode.RESOURCE_EXHAUSTED
    exit_code = 75

    def __init__(self, message: str, *, retry_after_s: float, request_id: str = "") -> None:
        super().__init__(message, request_id=request_id)
        self.retry_after_s = retry_after_s


class UnavailableError(ShoalError):
    """A process that the call needs can't be reached."""

    code = grpc.StatusCode.UNAVAILABLE
    exit_code = 69


class InsufficientCoverageError(UnavailableError):
    """Too small a share of the passages could be searched; not to be retried at once."""


class DeadlineExceededError(ShoalError):
    """The call's time limit passed."""

    code = grpc.StatusCode.DEADLINE_EXCEEDED
    exit_code = 75


class CancelledError(ShoalError):
    """The caller left."""

    code = grpc.StatusCode.CANCELLED
    exit_code = 75


class UnauthenticatedError(ShoalError):
    """No valid credentials."""

    code = grpc.StatusCode.UNAUTHENTICATED
    exit_code = 77


class PermissionDeniedError(ShoalError):
    """The credentials don't allow this."""

    code = grpc.StatusCode.PERMISSION_DENIED
    exit_code = 77


class InternalError(ShoalError):
    """Our bug; the request id leads to it in the log."""

    code = grpc.StatusCode.INTERNAL
    exit_code = 70


class LocalError(ShoalError):
    """Met on this machine, not in a call."""

    code = grpc.StatusCode.FAILED_PRECONDITION


class ConfigError(LocalError):
    """A setting that is unknown, missing or impossible."""

    exit_code = 78


class IndexFormatError(LocalError):
    """An index that can't be read, or whose bytes aren't those of its manifest."""

    exit_code = 78


class CorpusError(LocalError):
    """A fault in a corpus, queries or qrels file; the message begins with file:line."""

    exit_code = 65


class StorageError(LocalError):
    """The file system refused: full, read-only, not permitted."""

    exit_code = 74


class LockedError(LocalError):
    """Another process is writing there."""

    exit_code = 75


class VerdictError(LocalError):
    """A measurement says no: a run that measures its own generator, a figure past its threshold."""

    exit_code = 1
