"""Files that are whole or absent: durable writes, content addresses, and the builder's lock.

Rule: a file gets its final name only once its bytes are on the disk. This module must not know
what the files mean.
"""

import errno
import fcntl
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from shoal.errors import IndexFormatError, LockedError, StorageError

LOCK_FILE = ".lock"


@contextmanager
def guard_storage(path: Path) -> Iterator[None]:
    """Turn the disk's refusals (full, read-only, not ours) into a StorageError naming the file."""
    try:
        yield
    except OSError as error:
        where = error.filename or path
        full = error.errno in {errno.ENOSPC, errno.EDQUOT}
        advice = "free some space or choose" if full else "mend its permissions or choose"
        raise StorageError(
            f"{where}: can't be written: {error.strerror}; {advice} another folder"
        ) from error


def check_writable(path: Path) -> None:
    """Tell before long work, not after it, that no file can be put at `path`.

    Raises:
        StorageError: its folder isn't there or not ours, or a folder is in its place.
    """
    folder = path.parent
    if not folder.is_dir():
        raise StorageError(f"{path}: can't be written: there is no folder {folder}")
    if path.is_dir():
        raise StorageError(f"{path}: can't be written: it is a folder")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise StorageError(f"{path}: can't be written: {folder} can't be written to")


def stay_inside(folder: Path, path: Path) -> Path:
    """`path`, whose links don't lead out of `folder`; else IndexFormatError. Opens nothing."""
    if not path.resolve().is_relative_to(folder.resolve()):
        raise IndexFormatError(f"{path}: leads out of the index folder")
    return path


def sha256_of(path: Path) -> str:
    """The file's SHA-256 in hex, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fsync_dir(folder: Path) -> None:
    """Make the names in `folder` durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_durably(path: Path, content: bytes) -> None:
    """Replace `path` by `content` with one atomic rename, on the disk when this returns."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    fsync_dir(path.parent)


def move_into_store(staged: Path, data_dir: Path) -> tuple[str, int]:
    """Move a finished file to `data_dir/<its sha256>/<its name>`; returns (sha256, bytes).

    The same bytes under the same name are kept once: versions share files.
    """
    with staged.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        os.fsync(file.fileno())
        n_bytes = os.fstat(file.fileno()).st_size
    folder = data_dir / digest
    folder.mkdir(parents=True, exist_ok=True)
    staged.replace(folder / staged.name)
    fsync_dir(folder)
    fsync_dir(data_dir)
    return digest, n_bytes


def is_locked(index_dir: Path) -> bool:
    """Whether a builder holds the folder now."""
    try:
        with (index_dir / LOCK_FILE).open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


@contextmanager
def builder_lock(index_dir: Path) -> Iterator[None]:
    """Hold the index folder for one builder; LockedError at once where another holds it.

    The kernel drops the lock with its process, so a killed builder leaves none behind.
    """
    path = index_dir / LOCK_FILE
    with guard_storage(index_dir), path.open("a+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # A failed first build takes its lock file away: ours must still have the name.
            held = path.exists() and path.stat().st_ino == os.fstat(file.fileno()).st_ino
        except BlockingIOError:
            held = False
        if not held:
            raise LockedError(
                f"{index_dir}: another build is writing to it; wait for it or choose another folder"
            )
        yield
