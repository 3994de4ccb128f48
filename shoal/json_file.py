"""Small JSON files that one process writes and others watch."""

import json
import os
from pathlib import Path

from shoal.errors import StorageError


def write_json(path: Path, value: object) -> None:
    """Replaces `path` in one rename, so that a reader never sees half of it.

    Raises:
        StorageError: the folder is missing, full or not writable.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        partial.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
        partial.replace(path)
    except OSError as failure:
        raise StorageError(f"can't write {path}: {failure.strerror}") from failure
