"""Errors on the wire and back; whatever else a server may send."""

import grpc
import pytest
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2
from hypothesis import given
from hypothesis import strategies as st

from shoal import errors
from shoal.rpc.status import (
    PUSHBACK_KEY,
    STATUS_KEY,
    error_of,
    from_status,
    given_up_code,
    to_status,
    trailing_metadata,
)


class Failure(grpc.RpcError):
    """A failed call as grpc hands it out."""

    def __init__(self, code, details, trailing):
        self._code, self._details, self._trailing = code, details, trailing

    def code(self):
        return self._code

    def details(self):
        return self._details

    def trailing_metadata(self):
        return self._trailing


WIRE_ERRORS = [
    errors.InvalidArgumentError("k is 0", field="k"),
    errors.NotFoundError("no index"),
    errors.FailedPreconditionError("another version", reason="WRONG_VERSION"),
    errors.UnsupportedError("filter"),
    errors.OverloadedError("full", retry_after_s=0.25),
    errors.UnavailableError("down"),
    errors.InsufficientCoverageError("coverage is 0.5"),
    errors.DeadlineExceededError("late"),
    errors.CancelledError("left"),
    errors.UnauthenticatedError("who"),
    errors.PermissionDeniedError("no"),
    errors.InternalError("bug"),
]


@pytest.mark.parametrize("error", WIRE_ERRORS, ids=lambda error: type(error).__name__)
def test_errors_survive_the_way(error):
    """Class, message, field, reason and delay are the same at the other end."""
    failure = Failure(error.code, error.message, trailing_metadata(error))
    for back in (error_of(failure, "r1"), from_status(to_status(error), "r1")):
        assert type(back) is type(error)
        assert back.message == error.message
        assert back.request_id == "r1"
        for name in ("field", "retry_after_s"):
            assert getattr(back, name, None) == getattr(error, name, None)
        if error.reason:
            assert back.reason == error.reason


def test_only_too_little_coverage_forbids_retries():
    """Its pushback is -1; no other error has one."""
    for error in WIRE_ERRORS:
        pushback = dict(trailing_metadata(error)).get(PUSHBACK_KEY)
        assert (pushback == "-1") == isinstance(error, errors.InsufficientCoverageError)


def test_every_error_is_tested():
    """The tree has no wire error that this file forgot."""

    def leaves(cls):
        yield cls
        for below in cls.__subclasses__():
            if below.__module__ == "shoal.errors" and below is not errors.LocalError:
                yield from leaves(below)

    assert {type(error) for error in WIRE_ERRORS} == set(leaves(errors.ShoalError)) - {
        errors.ShoalError
    }


@pytest.mark.parametrize(
    "local", [errors.ConfigError, errors.IndexFormatError, errors.StorageError]
)
def test_local_errors_arrive_as_failed_preconditions(local):
    """A shard that can't open its index says why, by a status that clients know."""
    assert type(from_status(to_status(local("broken")))) is errors.FailedPreconditionError


FAILURES = [code for code in grpc.StatusCode if code is not grpc.StatusCode.OK]


@pytest.mark.parametrize("code", FAILURES)
def test_every_code_has_an_error(code):
    """From any server: a typed error with its message, never a crash."""
    error = error_of(Failure(code, "why", ()))
    assert isinstance(error, errors.ShoalError)
    assert "why" in error.message
    assert "why" in error_of(Failure(code, "why", None)).message
    assert error_of(Failure(code, None, ())).message


@given(st.sampled_from(FAILURES), st.binary(max_size=60))
def test_garbage_for_details_is_ignored(code, garbage):
    """The code and the message remain when the details can't be read or tell another code."""
    error = error_of(Failure(code, "why", ((STATUS_KEY, garbage),)))
    assert type(error) is type(error_of(Failure(code, "why", ()))) or error.code is code


@given(st.sampled_from([3, 5, 8, 9, 13, 14, 16, 99, -1]), st.binary(max_size=30))
def test_garbage_within_details_is_ignored(code, garbage):
    """A status whose details don't parse is still an error of its code."""
    status = status_pb2.Status(code=code, message="why")
    for name in ("ErrorInfo", "BadRequest", "RetryInfo", "Other"):
        status.details.append(
            any_pb2.Any(type_url=f"type.googleapis.com/google.rpc.{name}", value=garbage)
        )
    assert "why" in from_status(status).message


def test_a_status_of_another_code_is_not_believed():
    """The call's own code decides (as gRPC's convention has it)."""
    status = status_pb2.Status(code=0, message="fine")
    trailing = ((STATUS_KEY, status.SerializeToString()),)
    error = error_of(Failure(grpc.StatusCode.NOT_FOUND, "no index", trailing))
    assert isinstance(error, errors.NotFoundError)
    assert error.message == "no index"


def test_another_servers_error_info_is_no_coverage_error():
    """Reasons are kept as they are; only ours means coverage."""
    status = status_pb2.Status(code=14, message="m")
    status.details.add().Pack(error_details_pb2.ErrorInfo(reason="OTHER", domain="elsewhere"))
    error = from_status(status)
    assert type(error) is errors.UnavailableError
    assert error.reason == "OTHER"


@pytest.mark.parametrize("letter", ["x", "ä", "漢", "\U0001f41f"])
def test_long_messages_fit_the_trailing_metadata(letter):
    """gRPC drops a status over some 8 KiB: the message is cut, on a letter's edge."""
    error = errors.InvalidArgumentError(letter * 10_000, field="k")
    status = to_status(error)
    assert len(trailing_metadata(error)[0][1]) < 3_000
    assert set(status.message[:-1]) == {letter}
    assert status.message.endswith("…")


def test_a_call_that_was_cut_off_at_its_deadline_timed_out():
    """Client and server count the same time apart, and the client's cancellation comes first."""
    assert given_up_code(0.0) is given_up_code(0.02) is grpc.StatusCode.DEADLINE_EXCEEDED
    assert given_up_code(3.0) is given_up_code(None) is grpc.StatusCode.CANCELLED
