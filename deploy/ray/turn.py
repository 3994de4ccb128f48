"""One command at a time changes a Ray cluster's applications.

Rule: a Serve config has all applications of the cluster, so that whoever changes one reads and
writes all; of two that did so at once, the second would delete what the first has just made. The
turn is an actor's name, which ends with the command that took it, however that ended.
"""

import contextlib
import time
from collections.abc import Iterator
from typing import Any

from shoal.errors import LockedError

_NAME, _NAMESPACE = "changes-applications", "shoal"
_PATIENCE_S = 120.0
"""A turn takes a second, and to end an application as long as its calls get to end."""
_POLL_S = 0.2


class _Turn:
    """Does nothing; it is there or not."""


@contextlib.contextmanager
def own_turn(patience_s: float = _PATIENCE_S) -> Iterator[None]:
    """No other command changes applications of the connected Ray cluster meanwhile.

    Raises:
        LockedError: another one did so for all that time.
    """
    import ray  # noqa: PLC0415 -- `shoal --help` does without it

    until_s = time.monotonic() + patience_s
    while (turn := _taken()) is None:
        if time.monotonic() > until_s:
            raise LockedError(
                f"another command has been changing this Ray cluster's applications for "
                f"{patience_s:.0f} s; try again when it has ended"
            )
        time.sleep(_POLL_S)
    try:
        yield
    finally:
        ray.kill(turn)


def _taken() -> Any:
    """The turn, where it is ours; None where another has it."""
    import ray  # noqa: PLC0415 -- as above

    try:
        turn = ray.remote(_Turn).options(name=_NAME, namespace=_NAMESPACE, num_cpus=0).remote()
        # of two that asked at the same moment, the name says who has it
        return turn if ray.get_actor(_NAME, namespace=_NAMESPACE) == turn else None
    except ValueError:  # the name is taken, or was just given back
        return None
