"""The folder that a build works in: locked, staged, and whole or gone.

Rule: whatever ends a build before CURRENT turns, the index is as it was; what a killed build left
is swept by the next. Must not know what is built.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from shoal.errors import ConfigError, IndexFormatError
from shoal.formats.files import LOCK_FILE, builder_lock, guard_storage, move_into_store
from shoal.formats.manifest import FileEntry, Manifest
from shoal.formats.versions import (
    CURRENT_FILE,
    DATA_DIR,
    VERSIONS_DIR,
    list_versions,
    load_manifest,
    read_current,
)

STAGING_DIR = ".staging"
_OURS = frozenset({CURRENT_FILE, DATA_DIR, VERSIONS_DIR, STAGING_DIR, LOCK_FILE})


@dataclass(slots=True, kw_only=True)
class Workspace:
    """One build's place in an index folder. `previous` is the live manifest, if there is one."""

    index_dir: Path
    version: int
    previous: Manifest | None
    _adopted: list[Path] = field(default_factory=list)

    @property
    def staging(self) -> Path:
        """For files that are not finished."""
        return self.index_dir / STAGING_DIR

    def adopt(self, staged: Path) -> FileEntry:
        """Move a finished file among the index's data; from then on it is named by its hash."""
        known = set(_data_folders(self.index_dir))
        digest, n_bytes = move_into_store(staged, self.index_dir / DATA_DIR)
        folder = self.index_dir / DATA_DIR / digest
        if folder not in known:
            self._adopted.append(folder)
        return FileEntry(path=f"{DATA_DIR}/{digest}/{staged.name}", n_bytes=n_bytes, sha256=digest)

    def discard(self) -> None:
        """Take away all that this build has put into the folder, unless it was committed."""
        if _live_version(self.index_dir) == self.version:
            return
        for folder in self._adopted:
            shutil.rmtree(folder, ignore_errors=True)
        shutil.rmtree(self.index_dir / VERSIONS_DIR / f"{self.version:06d}", ignore_errors=True)


@contextmanager
def open_workspace(index_dir: Path, *, overwrite: bool) -> Iterator[Workspace]:
    """Lock `index_dir` and prepare it for the next version.

    Raises:
        ConfigError: the folder holds an index (and `overwrite` is False) or something else.
        LockedError: another build is at work there.
        StorageError: the folder can't be written.
    """
    with guard_storage(index_dir):
        is_new = not index_dir.exists()
        if not is_new and not index_dir.is_dir():
            raise ConfigError(f"{index_dir}: is a file; --index names a folder")
        _refuse_strangers(index_dir)
        index_dir.mkdir(parents=True, exist_ok=True)
        with builder_lock(index_dir):
            workspace = _prepare(index_dir, overwrite=overwrite)
            try:
                yield workspace
            except BaseException:
                workspace.discard()
                raise
            finally:
                shutil.rmtree(workspace.staging, ignore_errors=True)
                if _live_version(index_dir) is None:
                    _leave_as_found(index_dir, is_new=is_new)


def _prepare(index_dir: Path, *, overwrite: bool) -> Workspace:
    previous = None
    if (index_dir / CURRENT_FILE).exists():
        previous = load_manifest(index_dir)
        if not overwrite:
            raise ConfigError(
                f"{index_dir}: holds index {previous.name!r}, version {previous.version}; choose "
                "another --index, or --overwrite to build its next version"
            )
    _sweep(index_dir)
    version = max(list_versions(index_dir), default=0) + 1
    workspace = Workspace(index_dir=index_dir, version=version, previous=previous)
    workspace.staging.mkdir()
    return workspace


def _sweep(index_dir: Path) -> None:
    """Remove what a killed build left: staging, half versions, data that no version lists."""
    shutil.rmtree(index_dir / STAGING_DIR, ignore_errors=True)
    if _live_version(index_dir) is None:
        shutil.rmtree(index_dir / VERSIONS_DIR, ignore_errors=True)
        shutil.rmtree(index_dir / DATA_DIR, ignore_errors=True)
        return
    for partial in (index_dir / VERSIONS_DIR).glob(".*.partial"):
        shutil.rmtree(partial, ignore_errors=True)
    manifests = [load_manifest(index_dir, version) for version in list_versions(index_dir)]
    listed = {entry.sha256 for manifest in manifests for entry in manifest.entries()}
    for folder in _data_folders(index_dir):
        if folder.name not in listed:
            shutil.rmtree(folder, ignore_errors=True)


def _refuse_strangers(index_dir: Path) -> None:
    if not index_dir.exists():
        return
    strangers = sorted(entry.name for entry in index_dir.iterdir() if entry.name not in _OURS)
    if strangers:
        raise ConfigError(
            f"{index_dir}: is no index folder (it holds {strangers[0]!r}); choose another --index"
        )


def _leave_as_found(index_dir: Path, *, is_new: bool) -> None:
    for name in (DATA_DIR, VERSIONS_DIR):
        shutil.rmtree(index_dir / name, ignore_errors=True)
    (index_dir / LOCK_FILE).unlink(missing_ok=True)
    if is_new:
        index_dir.rmdir()


def _live_version(index_dir: Path) -> int | None:
    try:
        return read_current(index_dir).version
    except IndexFormatError:
        return None


def _data_folders(index_dir: Path) -> list[Path]:
    data = index_dir / DATA_DIR
    return sorted(data.iterdir()) if data.is_dir() else []
