"""What a failure on Ray comes down to: our own error, in one line, wherever it was raised.

Rule: what our code refused there is raised here as it is; what befell Ray is UnavailableError, and
the work so far is kept.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import ray.exceptions
from ray.data.exceptions import ExecutionTimeoutError, SystemException

from shoal.errors import ShoalError, UnavailableError

_OF_RAY = (ray.exceptions.RayError, SystemException, ExecutionTimeoutError)


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
    """The message without the traceback that Ray adds, which ends in the cause."""
    lines = [line for line in str(failure).strip().splitlines() if line.strip()]
    if not lines:
        return type(failure).__name__
    has_traceback = any("Traceback" in line or "ray::" in line for line in lines)
    return (lines[-1] if has_traceback else lines[0]).strip()[:300]


def _own(failure: BaseException) -> Iterator[BaseException]:
    """Our errors, and the disk's, among what caused `failure`, without Ray's wrapping."""
    seen: set[int] = set()
    left: list[BaseException | None] = [failure]
    while left:
        error = left.pop()
        if error is None or id(error) in seen:
            continue
        seen.add(id(error))
        if isinstance(error, ShoalError | OSError) and not isinstance(error, _OF_RAY):
            yield error
        left += [getattr(error, "cause", None), error.__cause__, error.__context__]
