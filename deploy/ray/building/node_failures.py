"""Whose failure it is that befalls a worker: its node's, or the index's disk's. Pure.

Rule: a build throws its work away when the index's disk fails it. What one worker's mount refuses
(read-only, not ours, an input error) says nothing of that disk, and becomes a ConfigError that
names the node and keeps the work. A full disk is full for all, wherever it is written from.
"""

import errno
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager

from shoal.errors import ConfigError, ShoalError, StorageError

FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


@contextmanager
def naming_node(
    node: Callable[[], str], *, passing: Collection[int] = frozenset()
) -> Iterator[None]:
    """Around what a worker does.

    Args:
        node: what its node is called, asked only where something failed.
        passing: error numbers that are of the index's disk, and raised as they are.

    Raises:
        ConfigError: our error, or a disk's, "on node ...".
        OSError, StorageError: of `passing`.
    """
    try:
        yield
    except OSError as error:
        if error.errno in passing:
            raise
        raise ConfigError(f"on node {node()}: {_told(error)}") from error
    except ShoalError as error:
        if isinstance(error, StorageError) and _number(error) in passing:
            raise
        raise ConfigError(f"on node {node()}: {error.message}") from error


def _told(error: OSError) -> str:
    where = f"{error.filename}: " if error.filename else ""
    return f"{where}{error.strerror or error}"


def _number(error: BaseException) -> int | None:
    """The number of the OSError that an error came from."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError):
            return cause.errno
        cause = cause.__cause__ or cause.__context__
    return None
