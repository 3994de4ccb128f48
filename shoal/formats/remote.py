"""Push an index to a URL, pull one from it.

Rule: data first, then the manifest, CURRENT last of all, and each only once what it names has been
proved by size and SHA-256; wherever it ends before, the old version is live and the same command
goes on. A remote has no lock: one pusher at a time. Must not know what the files hold.
"""

import contextlib
import hashlib
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from shoal.errors import ConfigError, IndexFormatError, LockedError, ShoalError
from shoal.formats.files import LOCK_FILE, builder_lock, guard_storage, move_into_store
from shoal.formats.manifest import (
    CHECKSUM_FILE,
    CURRENT_FILE,
    DATA_DIR,
    MANIFEST_FILE,
    VERSIONS_DIR,
    Current,
    FileEntry,
    check_file,
    commit_content,
    current_line,
    list_versions,
    load_manifest,
    parse_manifest,
    read_current,
)
from shoal.formats.remote_plan import in_history, plan_push, refuse_pull, refuse_push
from shoal.formats.remote_store import CHUNK_BYTES, Remote

STAGING_DIR = ".staging"  # the builder's own, so that its next run sweeps what a kill left
_OURS = frozenset({CURRENT_FILE, DATA_DIR, VERSIONS_DIR, STAGING_DIR, LOCK_FILE})


class Progress(Protocol):
    """Called often while bytes are copied."""

    def __call__(self, stage: str, done: int, total: int | None) -> None:
        """`done` of `total` kB of `stage`'s work."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Transfer:
    """What a push or pull did; `turned` says whether CURRENT changed."""

    name: str
    version: int
    n_files_copied: int
    n_bytes_copied: int
    n_files_kept: int
    turned: bool


def push_index(
    index_dir: Path,
    remote: Remote,
    show: Progress,
    *,
    force: bool = False,
    check_all: bool = False,
) -> Transfer:
    """Copy the live version of `index_dir` to `remote` and make it the live one there.

    `force` puts another index aside; `check_all` reads every file there back, not only those that
    no version of ours vouches for.

    Raises:
        IndexFormatError: the local index does not verify, or the remote CURRENT is broken.
        ConfigError: the remote holds another index, or a version that is not in our history.
        LockedError: somebody else pushed meanwhile.
        UnavailableError, PermissionDeniedError, StorageError: the remote can't be used.
    """
    manifest = load_manifest(index_dir)
    content = (index_dir / _name_of(manifest.version, MANIFEST_FILE)).read_bytes()
    history = _history(index_dir)
    ours = Current(manifest.version, history[manifest.version])
    before = remote.read(CURRENT_FILE)
    there = _live_there(remote, force=force)
    if not force:
        there_name = "" if in_history(there, history) else _name_there(remote, there)
        refuse_push(remote.url, manifest.name, there=there, there_name=there_name, history=history)
    vouched: set[FileEntry] = set()
    if there is not None and in_history(there, history) and not check_all:
        vouched.update(load_manifest(index_dir, there.version).entries())
    plan = plan_push(manifest.entries(), sizes=remote.data_sizes(), vouched=vouched)
    to_copy = [*plan.to_copy, *_wrong_there(remote, plan.to_check, show)]
    copied = _Meter(show, "copied kB", to_copy)
    for entry in to_copy:
        _upload(index_dir, remote, entry, copied)
    if remote.read(CURRENT_FILE) != before:
        raise LockedError(f"{remote.url}: somebody else pushed meanwhile; run the push again")
    _turn_remote(remote, ours, content, there=there)
    return Transfer(
        name=manifest.name,
        version=ours.version,
        n_files_copied=len(to_copy),
        n_bytes_copied=copied.total,
        n_files_kept=len(manifest.entries()) - len(to_copy),
        turned=there != ours,
    )


def pull_index(remote: Remote, index_dir: Path, show: Progress) -> Transfer:
    """Copy the remote's live version into `index_dir` and make it the live one there.

    Raises:
        IndexFormatError: the remote has no valid index, or a file is not what its manifest says.
        ConfigError: the folder holds something else: no index, another one, or a newer version.
        LockedError: a builder is at work in the folder.
        UnavailableError, PermissionDeniedError, StorageError: remote or folder can't be used.
    """
    there, content = _read_live(remote)
    where = f"{remote.url}/{_name_of(there.version, MANIFEST_FILE)}"
    manifest = parse_manifest(where, content, there)
    _prepare_folder(index_dir)
    with builder_lock(index_dir), _staging(index_dir) as staging:
        here = _live_here(index_dir)
        ours_there = None
        if here is not None and here != there:
            ours_there = remote.read(_name_of(here.version, MANIFEST_FILE))
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
        copied = _Meter(show, "copied kB", lacking)
        for entry in lacking:
            _download(remote, index_dir, staging, entry, copied)
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


class _Meter:
    def __init__(self, show: Progress, stage: str, entries: Iterable[FileEntry]) -> None:
        self.total = sum(entry.n_bytes for entry in entries)
        self._show, self._stage, self._done = show, stage, 0

    def add(self, n_bytes: int) -> None:
        self._done += n_bytes
        self._show(self._stage, self._done // 1000, self.total // 1000)


def _name_of(version: int, file: str) -> str:
    return f"{VERSIONS_DIR}/{version:06d}/{file}"


def _history(index_dir: Path) -> dict[int, str]:
    """The manifests' SHA-256 by version, up to the live one: versions above it never were live."""
    live = read_current(index_dir).version
    found = {}
    for version in list_versions(index_dir):
        path = index_dir / _name_of(version, MANIFEST_FILE)
        if version <= live and path.is_file():
            found[version] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def _live_there(remote: Remote, *, force: bool) -> Current | None:
    try:
        return remote.read_current()
    except IndexFormatError as error:
        if force:
            return None
        raise IndexFormatError(f"{error.message}; --force replaces it") from None


def _name_there(remote: Remote, there: Current | None) -> str:
    if there is None:
        return ""
    where = _name_of(there.version, MANIFEST_FILE)
    content = remote.read(where)
    if content is None:
        raise IndexFormatError(f"{remote.url}/{where}: missing; --force replaces the index")
    return parse_manifest(f"{remote.url}/{where}", content, there).name


def _wrong_there(
    remote: Remote, entries: Iterable[FileEntry], show: Progress
) -> Iterator[FileEntry]:
    entries = tuple(entries)
    checked = _Meter(show, "checked kB", entries)
    for entry in entries:
        if remote.sha256_of(entry.path) != entry.sha256:
            yield entry
        checked.add(entry.n_bytes)


def _upload(index_dir: Path, remote: Remote, entry: FileEntry, meter: _Meter) -> None:
    """Send one file; what was sent is proved by its hash, what arrived by its size."""
    digest = hashlib.sha256()
    path = index_dir / entry.path

    def chunks() -> Iterator[bytes]:
        try:
            with path.open("rb") as file:
                while chunk := file.read(CHUNK_BYTES):
                    digest.update(chunk)
                    yield chunk
                    meter.add(len(chunk))
        except OSError as error:
            raise IndexFormatError(f"{path}: can't be read: {error.strerror}") from error

    if not path.is_file() or path.stat().st_size != entry.n_bytes:
        check_file(index_dir, entry)
    remote.upload(entry.path, chunks())
    if digest.hexdigest() != entry.sha256:
        with contextlib.suppress(ShoalError):
            remote.delete(entry.path)
        raise IndexFormatError(f"{path}: SHA-256 differs from the manifest's; it was altered")
    n_bytes = remote.size_of(entry.path)
    if n_bytes != entry.n_bytes:
        raise IndexFormatError(
            f"{remote.url}/{entry.path}: {n_bytes} bytes arrived of {entry.n_bytes}; push again"
        )


def _turn_remote(remote: Remote, ours: Current, content: bytes, *, there: Current | None) -> None:
    """Manifest, then CURRENT."""
    if there is not None and there != ours and there.version == ours.version:
        # forced over another index: its manifest and ours share a name, so first none is live
        remote.delete(CURRENT_FILE)
    manifest_name = _name_of(ours.version, MANIFEST_FILE)
    if remote.read(manifest_name) != content:
        remote.write(manifest_name, content)
        if remote.read(manifest_name) != content:
            raise IndexFormatError(f"{remote.url}/{manifest_name}: arrived altered; push again")
    checksum = f"{ours.manifest_sha256}\n".encode()
    if remote.read(_name_of(ours.version, CHECKSUM_FILE)) != checksum:
        remote.write(_name_of(ours.version, CHECKSUM_FILE), checksum)
    if there != ours:
        remote.write(CURRENT_FILE, current_line(ours))


def _read_live(remote: Remote) -> tuple[Current, bytes]:
    current = remote.read_current()
    if current is None:
        raise IndexFormatError(f"{remote.url}: holds no index (no {CURRENT_FILE})")
    name = _name_of(current.version, MANIFEST_FILE)
    content = remote.read(name)
    if content is None:
        raise IndexFormatError(f"{remote.url}/{name}: missing, though {CURRENT_FILE} names it")
    return current, content


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


def _download(
    remote: Remote, index_dir: Path, staging: Path, entry: FileEntry, meter: _Meter
) -> None:
    """Bring one file, which counts only once its size and hash are the manifest's."""
    staged = staging / Path(entry.path).name
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
