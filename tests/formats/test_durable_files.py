"""Files are whole or absent, and a folder has one builder."""

import fcntl
from pathlib import Path
from typing import IO

import pytest

from shoal.errors import LockedError, StorageError
from shoal.formats.files import (
    builder_lock,
    guard_storage,
    is_locked,
    move_into_store,
    sha256_of,
    write_durably,
)


def test_a_failed_write_leaves_the_old_content(tmp_path: Path) -> None:
    """The new name appears only with all its bytes."""
    path = tmp_path / "CURRENT"
    write_durably(path, b"old")
    with pytest.raises(TypeError):
        write_durably(path, "not bytes")  # type: ignore[arg-type]
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_same_bytes_are_kept_once(tmp_path: Path) -> None:
    """The address is the content, so that versions share files."""
    for _ in range(2):
        staged = tmp_path / "a.bin"
        staged.write_bytes(b"same")
        digest, n_bytes = move_into_store(staged, tmp_path / "data")
    assert n_bytes == 4
    assert [path for path in (tmp_path / "data").rglob("*") if path.is_file()] == [
        tmp_path / "data" / digest / "a.bin"
    ]
    assert sha256_of(tmp_path / "data" / digest / "a.bin") == digest


def test_one_builder_at_a_time(tmp_path: Path) -> None:
    """The second is told at once, and may come back."""
    with builder_lock(tmp_path):
        assert is_locked(tmp_path)
        with pytest.raises(LockedError, match="another build"), builder_lock(tmp_path):
            pass
    assert not is_locked(tmp_path)
    with builder_lock(tmp_path):
        pass


def test_a_lock_whose_file_was_taken_away_is_no_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A failed first build removes its lock file, perhaps between our open and our lock."""
    real_flock = fcntl.flock

    def flock_after_unlink(file: IO[bytes], operation: int) -> None:
        (tmp_path / ".lock").unlink()
        real_flock(file, operation)

    monkeypatch.setattr(fcntl, "flock", flock_after_unlink)
    with pytest.raises(LockedError), builder_lock(tmp_path):
        pass


def test_the_disks_refusals_are_one_error() -> None:
    """A full disk is no bug of ours, and the message names the file."""
    full = Path("/dev/full")
    message = r"/dev/full: can't be written: No space left"
    with pytest.raises(StorageError, match=message), guard_storage(full):
        full.write_bytes(b"x")
