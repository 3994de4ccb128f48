"""What became of a shard, as data: a late shard is an outcome, not an exception. Pure."""

import enum
from typing import NamedTuple

from router.shard_reply import InvalidReplyError
from shoal.errors import (
    CancelledError,
    DeadlineExceededError,
    FailedPreconditionError,
    OverloadedError,
    ShoalError,
    UnavailableError,
)


class Outcome(enum.IntEnum):
    """The values of shoal.v1.Outcome."""

    OK = 1
    LATE = 2
    DOWN = 3
    OVERLOADED = 4
    WRONG_VERSION = 5
    INVALID_REPLY = 6


class ShardOutcome(NamedTuple):
    """How one shard's part of a call went; `detail` says why, for people.

    `retry_after_s` is when an overloaded shard takes more; 0 where it isn't one. `is_collateral`:
    it was given up only because the others can't be enough.
    """

    outcome: Outcome
    detail: str = ""
    elapsed_ms: float = 0.0
    retry_after_s: float = 0.0
    is_collateral: bool = False


def outcome_of(failure: BaseException) -> ShardOutcome:
    """The outcome that a failed call to a shard means."""
    match failure:
        case DeadlineExceededError():
            outcome = Outcome.LATE
        case OverloadedError():
            outcome = Outcome.OVERLOADED
        case InvalidReplyError():
            outcome = Outcome.INVALID_REPLY
        case FailedPreconditionError(reason="WRONG_VERSION"):
            outcome = Outcome.WRONG_VERSION
        case _:
            outcome = Outcome.DOWN
    message = failure.message if isinstance(failure, ShoalError) else str(failure)
    retry_after_s = failure.retry_after_s if isinstance(failure, OverloadedError) else 0.0
    return ShardOutcome(outcome=outcome, detail=message, retry_after_s=retry_after_s)


def another_may_help(failure: BaseException) -> bool:
    """Whether asking another replica of the shard makes sense; searching is safe to repeat."""
    helped = (
        UnavailableError,
        CancelledError,
        OverloadedError,
        InvalidReplyError,
        FailedPreconditionError,
    )
    return isinstance(failure, helped)
