"""Whether a build fits the disk: told before it costs time, and with figures where it ends there.

Rule: what is needed follows from the formats; what is free is asked once.
"""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from shard_server.building.cost import cost_of
from shard_server.building.recipe import Recipe
from shard_server.building.stage import StagedCorpus
from shard_server.building.staging import Staging
from shoal.errors import StorageError
from shoal.formats.versions import UnconfirmedError

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


def space_needed(
    recipe: Recipe, *, n_rows: int, n_training_vectors: int, dim: int, passage_bytes: int
) -> int:
    """Bytes that a build writes: encoded vectors, training sample, trained index and segments."""
    # no file's size goes by the metric
    cost = cost_of(
        recipe, n_rows=n_rows, dim=dim, metric="inner_product", passage_bytes=passage_bytes
    )
    sample = 4 * dim * n_training_vectors
    return cost.vectors + sample + cost.trained + cost.index + cost.mapped


@contextmanager
def room_for(
    staging: Staging,
    staged: StagedCorpus,
    recipe: Recipe,
    *,
    n_sample: int,
    dim: int,
    kept: int,
    beside: int = 0,
) -> Iterator[None]:
    """Refuse a build that won't fit the disk, less the `kept` bytes that it finds there; and where
    the disk is full all the same, by others or a quota, say what was needed and what was free.
    `beside` are bytes that it writes for more than the index.

    Raises:
        NoSpaceError: before anything was written.
        StorageError: the disk refused in the midst.
    """
    corpus_bytes = staged.path.stat().st_size
    n_bytes = space_needed(
        recipe,
        n_rows=staged.n_passages,
        n_training_vectors=n_sample,
        dim=dim,
        passage_bytes=corpus_bytes // staged.n_passages,
    )
    needed = max(0, n_bytes + beside - kept)
    free = shutil.disk_usage(staging.folder).free
    figures = f"the build needs {_in_words(needed)}, and {_in_words(free)} were free as it began"
    if needed > free:
        raise NoSpaceError(f"{staging.index_dir}: {figures}; free some space or choose another")
    try:
        yield
    except UnconfirmedError:
        raise  # it has room, and is done
    except StorageError as error:
        raise StorageError(f"{error.message}; {figures}") from error
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise _full(error, staging.index_dir, figures) from error


@contextmanager
def room_to_read(staging: Staging) -> Iterator[None]:
    """Around the reading of a corpus, whose end nobody knows: where the disk is full, say how much
    was written of it and how much was free.

    Raises:
        StorageError: the disk refused.
    """
    free, before = shutil.disk_usage(staging.folder).free, staging.n_bytes()
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        written = staging.n_bytes() - before
        figures = (
            f"the corpus alone needs more than {_in_words(written)}, and {_in_words(free)} were "
            "free as it began"
        )
        raise _full(error, staging.index_dir, figures) from error


def _full(error: OSError, index_dir: Path, figures: str) -> StorageError:
    # pyarrow's own words for it are no sentence
    why = os.strerror(error.errno or 0)
    return StorageError(
        f"{error.filename or index_dir}: can't be written: {why}; {figures}; free some space or "
        "choose another folder"
    )


class NoSpaceError(StorageError):
    """Nothing was written for want of room; what lay there is as it was."""


def _in_words(n_bytes: int) -> str:
    return f"{n_bytes / 1e6:,.1f} MB" if n_bytes < 1e9 else f"{n_bytes / 1e9:,.1f} GB"
