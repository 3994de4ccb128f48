"""The folder that a build works in: locked, staged, and whole.

Rule: whatever ends a build before CURRENT turns, the index is as it was. A killed build leaves its
finished stages for the same command to go on from; a failed one leaves them where an encoder's work
is among them, and the disk is sound. Must not know what is built.
"""

import errno
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from shard_server.building.progress import Progress, silent
from shard_server.building.space import NoSpaceError
from shard_server.building.staging import STAGING_DIR, Output, Staging, publish
from shoal.errors import ConfigError, StorageError
from shoal.formats.files import LOCK_FILE, builder_lock, guard_storage
from shoal.formats.manifest import FileEntry, Manifest
from shoal.formats.versions import (
    CURRENT_FILE,
    DATA_DIR,
    VERSIONS_DIR,
    list_versions,
    load_manifest,
    read_current,
    remove_unfinished,
    unfinished_paths,
)

_OURS = frozenset({CURRENT_FILE, DATA_DIR, VERSIONS_DIR, STAGING_DIR, LOCK_FILE})
"""And what a killed commit leaves, `unfinished_paths`."""
_REFUSALS = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS, errno.EACCES, errno.EPERM}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Workspace:
    """One build's place in an index folder. `previous` is the live manifest, if there is one."""

    index_dir: Path
    version: int
    previous: Manifest | None
    staging: Staging

    def publish(self, output: Output, name: str) -> FileEntry:
        """Move a finished output's file among the index's data."""
        return publish(output, name)


@contextmanager
def open_workspace(
    index_dir: Path, *, overwrite: bool, restart: bool = False, progress: Progress = silent
) -> Iterator[Workspace]:
    """Lock `index_dir` and prepare it for the next version; `restart` throws away earlier work.

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
            staging = Staging(index_dir=index_dir, progress=progress)
            previous = _previous(staging, overwrite=overwrite)
            try:
                workspace = _prepare(staging, previous, restart=restart)
                yield workspace
            except BaseException as failure:
                _abandon(staging, previous, failure, is_new=is_new)
                raise
            shutil.rmtree(staging.folder, ignore_errors=True)
            _clear(staging)


def is_worth_keeping(failure: BaseException, staging: Staging) -> bool:
    """Whether a build that ended so leaves its finished stages for the next.

    A user's interruption always does. A failure does where an encoder's work would be lost, but
    for the disk's own: a full disk wants its room back, and a failing one isn't believed.
    """
    if isinstance(failure, NoSpaceError):
        return staging.has_encoded(copies_too=True)
    if isinstance(failure, StorageError):
        return False
    if isinstance(failure, OSError) and failure.errno in _REFUSALS:
        return False
    return staging.has_encoded(copies_too=not isinstance(failure, Exception))


def _abandon(
    staging: Staging, previous: Manifest | None, failure: BaseException, *, is_new: bool
) -> None:
    live = _live_version(staging.index_dir)
    was_committed = live != (previous.version if previous else None)
    if was_committed or not is_worth_keeping(failure, staging):
        shutil.rmtree(staging.folder, ignore_errors=True)
    _clear(staging)
    if live is None and not staging.folder.exists():
        _leave_as_found(staging.index_dir, is_new=is_new)


def _previous(staging: Staging, *, overwrite: bool) -> Manifest | None:
    index_dir = staging.index_dir
    if not (index_dir / CURRENT_FILE).exists():
        return None
    previous = load_manifest(index_dir)
    if staging.was_committed({entry.sha256 for entry in previous.entries()}):
        # killed between turning CURRENT and tidying up
        shutil.rmtree(staging.folder, ignore_errors=True)
    if not overwrite:
        raise ConfigError(
            f"{index_dir}: holds index {previous.name!r}, version {previous.version}; choose "
            "another --index, or --overwrite to build its next version"
        )
    return previous


def _prepare(staging: Staging, previous: Manifest | None, *, restart: bool) -> Workspace:
    index_dir = staging.index_dir
    if restart:
        shutil.rmtree(staging.folder, ignore_errors=True)
    staging.sweep()
    _clear(staging)
    staging.folder.mkdir(exist_ok=True)
    version = max(list_versions(index_dir), default=0) + 1
    return Workspace(index_dir=index_dir, version=version, previous=previous, staging=staging)


def _clear(staging: Staging) -> None:
    """Remove versions that never were live, and data that neither they nor `staging` may need."""
    index_dir = staging.index_dir
    live = _live_version(index_dir)
    remove_unfinished(index_dir)
    versions = index_dir / VERSIONS_DIR
    for folder in versions.iterdir() if versions.is_dir() else ():
        # the live version is the highest that ever was: a build died while it wrote a higher one
        if live is None or not folder.name.isdecimal() or int(folder.name) > live:
            shutil.rmtree(folder, ignore_errors=True)
    manifests = [load_manifest(index_dir, version) for version in list_versions(index_dir)]
    listed = {entry.sha256 for manifest in manifests for entry in manifest.entries()}
    _drop_data(index_dir, keep=listed | staging.published())


def _drop_data(index_dir: Path, keep: Collection[str]) -> None:
    data = index_dir / DATA_DIR
    for folder in data.iterdir() if data.is_dir() else ():
        if folder.name not in keep:
            shutil.rmtree(folder, ignore_errors=True)


def _refuse_strangers(index_dir: Path) -> None:
    if not index_dir.exists():
        return
    ours = _OURS | {path.name for path in unfinished_paths(index_dir)}
    strangers = sorted(entry.name for entry in index_dir.iterdir() if entry.name not in ours)
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
    """None where there is no index; a CURRENT that can't be read is an error, never "none"."""
    return read_current(index_dir).version if (index_dir / CURRENT_FILE).exists() else None
