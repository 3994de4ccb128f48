"""The versions of an index folder: how they are read and committed.

Rule: nothing is believed before its checksum holds, and CURRENT turns last of all, by one atomic
rename: a reader sees the old version or the new one, whole. Must not know what the files hold.
"""

import hashlib
import re
import shutil
from pathlib import Path
from typing import NamedTuple

from pydantic import ValidationError

from shoal.errors import IndexFormatError, StorageError
from shoal.formats.files import fsync_dir, guard_storage, sha256_of, stay_inside, write_durably
from shoal.formats.manifest import FileEntry, Manifest

CURRENT_FILE = "CURRENT"
VERSIONS_DIR = "versions"
DATA_DIR = "data"
MANIFEST_FILE = "manifest.json"
CHECKSUM_FILE = "manifest.sha256"

_CHECKSUM = re.compile(r"[0-9a-f]{64}")
_CURRENT_LINE = re.compile(r"^([0-9]{6,12}) ([0-9a-f]{64})\n?$")


class UnconfirmedError(StorageError):
    """A version is live, but the disk has not said that it will stay so."""


class Current(NamedTuple):
    """What CURRENT says: the live version, and the SHA-256 of its manifest.json."""

    version: int
    manifest_sha256: str


def read_current(index_dir: Path) -> Current:
    """The live version of the index at `index_dir`; IndexFormatError where there is none."""
    path = index_dir / CURRENT_FILE
    try:
        line = stay_inside(index_dir, path).read_bytes().decode("ascii", "replace")
    except FileNotFoundError:
        raise IndexFormatError(
            f"{index_dir} holds no index (no {CURRENT_FILE}); make one with `shoal index build`"
        ) from None
    except OSError as error:
        raise IndexFormatError(
            f"{path}: no valid index: can't be read: {error.strerror}"
        ) from error
    return parse_current(path, line)


def parse_current(where: Path | str, line: str) -> Current:
    """What a CURRENT file's line says; IndexFormatError naming `where` if it isn't one."""
    match = _CURRENT_LINE.match(line)
    if match is None:
        raise IndexFormatError(
            f"{where}: no valid index: expected '<version> <sha256>', got {line[:80]!r}"
        )
    return Current(int(match[1]), match[2])


def current_line(current: Current) -> bytes:
    """What stands in CURRENT for this version."""
    return f"{current.version:06d} {current.manifest_sha256}\n".encode()


def list_versions(index_dir: Path) -> tuple[int, ...]:
    """The versions whose folders exist, ascending; the live one is CURRENT's."""
    folders = (index_dir / VERSIONS_DIR).glob("[0-9]*")
    return tuple(sorted(int(folder.name) for folder in folders if folder.name.isdecimal()))


def load_manifest(index_dir: Path, version: int | None = None) -> Manifest:
    """Read and check one version's manifest; None means the live one.

    Raises:
        IndexFormatError: naming the file that is missing, altered, malformed or too new.
    """
    if version is None:
        version, expected = read_current(index_dir)
    else:
        expected = _read_checksum(index_dir, version)
    path = _version_dir(index_dir, version) / MANIFEST_FILE
    try:
        content = stay_inside(index_dir, path).read_bytes()
    except OSError as error:
        raise IndexFormatError(
            f"{path}: no valid index: can't be read: {error.strerror}"
        ) from error
    return parse_manifest(path, content, Current(version, expected))


def parse_manifest(where: Path | str, content: bytes, expected: Current) -> Manifest:
    """The manifest in `content`, once its SHA-256 and version are the expected ones.

    Raises:
        IndexFormatError: naming `where`, and what about it is altered, malformed or too new.
    """
    if hashlib.sha256(content).hexdigest() != expected.manifest_sha256:
        raise IndexFormatError(
            f"{where}: no valid index: SHA-256 differs from the recorded one; the file was altered"
        )
    try:
        manifest = Manifest.model_validate_json(content)
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in fault["loc"]) or "the whole"
        hint = "; a newer release of shoal wrote it" if field in {"format", "min_reader"} else ""
        raise IndexFormatError(
            f"{where}: no valid index: field {field}: {fault['msg']}{hint}"
        ) from None
    if manifest.version != expected.version:
        raise IndexFormatError(
            f"{where}: no valid index: says version {manifest.version}, its folder says "
            f"{expected.version}"
        )
    return manifest


def commit_version(index_dir: Path, manifest: Manifest) -> Current:
    """Write `manifest` as a new version and make it the live one; all its files must lie in place.

    Raises:
        IndexFormatError: the version exists already (a version is never rewritten).
        StorageError: the disk is full, read-only or not ours; CURRENT is as it was.
        UnconfirmedError: the version is live, but a loss of power may undo that.
    """
    content = (manifest.model_dump_json(indent=1) + "\n").encode()
    return commit_content(index_dir, manifest.version, content)


def commit_content(index_dir: Path, version: int, content: bytes) -> Current:
    """`commit_version` for a manifest whose bytes are given: a copy keeps its SHA-256."""
    folder = _version_dir(index_dir, version)
    current = Current(version, hashlib.sha256(content).hexdigest())
    with guard_storage(folder):
        if folder.exists():
            raise IndexFormatError(f"{folder}: version {version} exists already")
        partial = folder.with_name(f".{folder.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        write_durably(partial / MANIFEST_FILE, content)
        write_durably(partial / CHECKSUM_FILE, f"{current.manifest_sha256}\n".encode())
        partial.rename(folder)
        fsync_dir(folder.parent)
        fsync_dir(index_dir)
        _turn_current(index_dir, current)
    return current


def unfinished_paths(index_dir: Path) -> tuple[Path, ...]:
    """What a commit or a pruning that was killed may leave: no reader looks at it."""
    partial = index_dir / f".{CURRENT_FILE}.partial"
    folders = sorted((index_dir / VERSIONS_DIR).glob(".*.partial"))
    return (*([partial] if partial.is_file() else []), *folders)


def remove_unfinished(index_dir: Path) -> None:
    """Take away what `unfinished_paths` names; the caller holds the builder's lock."""
    for path in unfinished_paths(index_dir):
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def _turn_current(index_dir: Path, current: Current) -> None:
    """Make `current` live. Taking the rename back after a failed sync would be no safer."""
    line = current_line(current)
    try:
        write_durably(index_dir / CURRENT_FILE, line)
    except OSError as error:
        if (index_dir / CURRENT_FILE).read_bytes() != line:
            raise
        raise UnconfirmedError(
            f"{index_dir / CURRENT_FILE}: version {current.version} is live, but the disk did not "
            f"confirm it ({error.strerror}): after a loss of power the version before it may be "
            "live again; mend the disk, then see `shoal index versions`"
        ) from error


def check_file(index_dir: Path, entry: FileEntry) -> Path:
    """The path of `entry`'s file, once its place, size and SHA-256 hold; else IndexFormatError."""
    path = index_dir / entry.path
    try:
        n_bytes = stay_inside(index_dir, path).stat().st_size
        if n_bytes != entry.n_bytes:
            raise IndexFormatError(f"{path}: {n_bytes} bytes, the manifest says {entry.n_bytes}")
        if sha256_of(path) != entry.sha256:
            raise IndexFormatError(f"{path}: SHA-256 differs from the manifest's; it was altered")
    except FileNotFoundError:
        raise IndexFormatError(f"{path}: missing, though the manifest lists it") from None
    except OSError as error:
        raise IndexFormatError(f"{path}: can't be read: {error.strerror}") from error
    return path


def _version_dir(index_dir: Path, version: int) -> Path:
    return index_dir / VERSIONS_DIR / f"{version:06d}"


def _read_checksum(index_dir: Path, version: int) -> str:
    path = _version_dir(index_dir, version) / CHECKSUM_FILE
    try:
        line = stay_inside(index_dir, path).read_bytes().decode("ascii", "replace").strip()
    except OSError as error:
        raise IndexFormatError(
            f"{path}: no valid index: can't be read: {error.strerror}; versions here: "
            f"{list_versions(index_dir)}"
        ) from error
    if not _CHECKSUM.fullmatch(line):
        raise IndexFormatError(f"{path}: no valid index: expected a SHA-256, got {line[:80]!r}")
    return line
