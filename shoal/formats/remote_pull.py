"""Pull an index from a URL.

Rule: data first, then the manifest, CURRENT last of all, and each only once what it names has been
proved by size and SHA-256; wherever it ends before, the old version is live and the same command
goes on. Must not know what the files hold.
"""

import contextlib
import hashlib
import shutil
from collections.abc import Iterator
from pathlib import Path

from shoal.errors import ConfigError, IndexFormatError
from shoal.formats.files import LOCK_FILE, builder_lock, guard_storage, move_into_store
from shoal.formats.manifest import FileEntry
from shoal.formats.remote_plan import refuse_pull
from shoal.formats.remote_store import Remote
from shoal.formats.remote_transfer import Meter, Progress, Transfer, name_of, read_live
from shoal.formats.versions import (
    CURRENT_FILE,
    DATA_DIR,
    MANIFEST_FILE,
    VERSIONS_DIR,
    Current,
    check_file,
    commit_content,
    load_manifest,
    parse_manifest,
    read_current,
)

STAGING_DIR = ".staging"  # the builder's own, so that its next run sweeps what a kill left
_OURS = frozenset({CURRENT_FILE, DATA_DIR, VERSIONS_DIR, STAGING_DIR, LOCK_FILE})


def pull_index(remote: Remote, index_dir: Path, show: Progress) -> Transfer:
    """Copy the remote's live version into `index_dir` and make it the live one there.

    Raises:
        IndexFormatError: the remote has no valid index, or a file is not what its manifest says.
        ConfigError: the folder holds something else: no index, another one, or a newer version.
        LockedError: a builder is at work in the folder.
        UnavailableError, PermissionDeniedError, StorageError: remote or folder can't be used.
    """
    there, content = read_live(remote)
    where = f"{remote.url}/{name_of(there.version, MANIFEST_FILE)}"
    manifest = parse_manifest(where, content, there)
    _prepare_folder(index_dir)
    with builder_lock(index_dir), _staging(index_dir) as staging:
        here = _live_here(index_dir)
        ours_there = None
        if here is not None and here != there:
            ours_there = remote.read(name_of(here.version, MANIFEST_FILE))
        refuse_pull(
            index_dir,
            here=here,
            here_name=load_manifest(index_dir).name if here else "",
            there=there,
            there_name=manifest.name,
            there_sha256_of_ours=None
            if ours_there is None
            else hashlib.sha256(ours_there).hexdigest(),
        )
        lacking = [entry for entry in manifest.entries() if not _holds(index_dir, entry)]
        copied = Meter(show, "copied kB", lacking)
        for entry in lacking:
            download(remote, index_dir, staging / Path(entry.path).name, entry, copied)
        if here != there:
            # a folder above the live version never was live: a builder or a pull died there
            folder = index_dir / VERSIONS_DIR / f"{there.version:06d}"
            shutil.rmtree(folder, ignore_errors=True)
            commit_content(index_dir, there.version, content)
    return Transfer(
        name=manifest.name,
        version=there.version,
        n_files_copied=len(lacking),
        n_bytes_copied=copied.total,
        n_files_kept=len(manifest.entries()) - len(lacking),
        turned=here != there,
    )


def _live_here(index_dir: Path) -> Current | None:
    return read_current(index_dir) if (index_dir / CURRENT_FILE).exists() else None


def _prepare_folder(index_dir: Path) -> None:
    with guard_storage(index_dir):
        if index_dir.exists() and not index_dir.is_dir():
            raise ConfigError(f"{index_dir}: is a file; --index names a folder")
        index_dir.mkdir(parents=True, exist_ok=True)
        strangers = sorted(path.name for path in index_dir.iterdir() if path.name not in _OURS)
    if strangers:
        raise ConfigError(
            f"{index_dir}: is no index folder (it holds {strangers[0]!r}); choose another --index"
        )


@contextlib.contextmanager
def _staging(index_dir: Path) -> Iterator[Path]:
    folder = index_dir / STAGING_DIR
    with guard_storage(folder):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _holds(index_dir: Path, entry: FileEntry) -> bool:
    """Whether the file is there and right; IndexFormatError where its place leads elsewhere."""
    folder = (index_dir / entry.path).parent
    if not folder.resolve().is_relative_to(index_dir.resolve()):
        raise IndexFormatError(f"{folder}: leads out of the index folder")
    try:
        check_file(index_dir, entry)
    except IndexFormatError:
        return False
    return True


def download(remote: Remote, index_dir: Path, staged: Path, entry: FileEntry, meter: Meter) -> None:
    """Bring one file into `index_dir`, once its size and hash are the manifest's.

    `staged` is where its bytes are gathered until then, under the name that it will have.

    Raises:
        IndexFormatError: naming the URL of a file that is missing, cut short or altered.
    """
    digest, n_bytes = hashlib.sha256(), 0
    with guard_storage(staged), staged.open("wb") as file:
        for chunk in remote.chunks(entry.path):
            n_bytes += len(chunk)
            if n_bytes > entry.n_bytes:
                break
            digest.update(chunk)
            file.write(chunk)
            meter.add(len(chunk))
    where = f"{remote.url}/{entry.path}"
    if n_bytes != entry.n_bytes:
        raise IndexFormatError(f"{where}: {n_bytes} bytes, the manifest says {entry.n_bytes}")
    if digest.hexdigest() != entry.sha256:
        raise IndexFormatError(f"{where}: SHA-256 differs from the manifest's; it was altered")
    with guard_storage(index_dir):
        move_into_store(staged, index_dir / DATA_DIR)
