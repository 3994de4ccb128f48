"""Push an index to a URL.

Rule: data first, then the manifest, CURRENT last of all, and each only once what it names has been
proved by size and SHA-256; wherever it ends before, the old version is live and the same command
goes on. A remote has no lock: one pusher at a time. Must not know what the files
hold.
"""

import contextlib
import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from shoal.errors import IndexFormatError, LockedError, ShoalError
from shoal.formats.manifest import FileEntry
from shoal.formats.remote_plan import in_history, plan_push, refuse_push
from shoal.formats.remote_store import CHUNK_BYTES, Remote
from shoal.formats.remote_transfer import Meter, Progress, Transfer, name_of
from shoal.formats.versions import (
    CHECKSUM_FILE,
    CURRENT_FILE,
    MANIFEST_FILE,
    Current,
    check_file,
    current_line,
    list_versions,
    load_manifest,
    parse_manifest,
    read_current,
)


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
    content = (index_dir / name_of(manifest.version, MANIFEST_FILE)).read_bytes()
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
    copied = Meter(show, "copied kB", to_copy)
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


def _history(index_dir: Path) -> dict[int, str]:
    """The manifests' SHA-256 by version, up to the live one: versions above it never were live."""
    live = read_current(index_dir).version
    found = {}
    for version in list_versions(index_dir):
        path = index_dir / name_of(version, MANIFEST_FILE)
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
    where = name_of(there.version, MANIFEST_FILE)
    content = remote.read(where)
    if content is None:
        raise IndexFormatError(f"{remote.url}/{where}: missing; --force replaces the index")
    return parse_manifest(f"{remote.url}/{where}", content, there).name


def _wrong_there(
    remote: Remote, entries: Iterable[FileEntry], show: Progress
) -> Iterator[FileEntry]:
    entries = tuple(entries)
    checked = Meter(show, "checked kB", entries)
    for entry in entries:
        if remote.sha256_of(entry.path) != entry.sha256:
            yield entry
        checked.add(entry.n_bytes)


def _upload(index_dir: Path, remote: Remote, entry: FileEntry, meter: Meter) -> None:
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
    manifest_name = name_of(ours.version, MANIFEST_FILE)
    if remote.read(manifest_name) != content:
        remote.write(manifest_name, content)
        if remote.read(manifest_name) != content:
            raise IndexFormatError(f"{remote.url}/{manifest_name}: arrived altered; push again")
    checksum = f"{ours.manifest_sha256}\n".encode()
    if remote.read(name_of(ours.version, CHECKSUM_FILE)) != checksum:
        remote.write(name_of(ours.version, CHECKSUM_FILE), checksum)
    if there != ours:
        remote.write(CURRENT_FILE, current_line(ours))
