"""What a failure on Ray comes down to: our own error, in one line, wherever it was raised.

Rule: what our code refused there is raised here as it is; what befell Ray is UnavailableError, and
the work so far is kept.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import ray.exceptions
from ray.data.exceptions import ExecutionTimeoutError, SystemException

from shoal.errors import ShoalError, UnavailableError

_OF_RAY = (ray.exceptions.RayError, SystemException, ExecutionTimeoutError)
_ERROR = re.compile(r"[\w.]*(Error|Exception)\b")
_NOT_OURS = (*_OF_RAY, ConnectionError, TimeoutError)
"""Those two are OSErrors, but of Ray's connections, and no disk's."""


@contextmanager
def as_our_own() -> Iterator[None]:
    """Around calls of Ray.

    Raises:
        ShoalError: as it was raised in an actor or a task.
        OSError: likewise, of the folder that is shared.
        UnavailableError: the cluster, or too many of its workers, went away.
    """
    try:
        yield
    except _OF_RAY as failure:
        ours = next(_own(failure), None)
        if isinstance(ours, ShoalError):
            ours.args = (ours.message,)  # Ray Data adds advice to its failures' text
        if ours is not None:
            raise ours from None
        raise UnavailableError(
            f"Ray could not go on with the build: {first_line(failure)}; the same command goes on "
            "once 'ray status' is well"
        ) from failure


def first_line(failure: BaseException) -> str:
    """The error at the end of the traceback that Ray tells, without what Ray Data adds to it; the
    first line where there is none.
    """
    lines = [line.strip() for line in str(failure).splitlines() if line.strip()]
    errors = [line for line in lines if _ERROR.match(line)]
    return [type(failure).__name__, *lines[:1], *errors[-1:]][-1][:300]


def _own(failure: BaseException) -> Iterator[BaseException]:
    """Our errors, and the disk's, among what caused `failure`, without Ray's wrapping."""
    seen: set[int] = set()
    left: list[BaseException | None] = [failure]
    while left:
        error = left.pop()
        if error is None or id(error) in seen:
            continue
        seen.add(id(error))
        if isinstance(error, ShoalError | OSError) and not isinstance(error, _NOT_OURS):
            yield error
        left += [error.__cause__, getattr(error, "cause", None)]
