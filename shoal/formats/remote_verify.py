"""Check an index at a URL where it lies: every manifest, and every byte that one lists.

Rule: reads all, reports every fault that it finds, changes and copies nothing. Must not know what
the files hold.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from shoal.errors import IndexFormatError
from shoal.formats.manifest import Manifest
from shoal.formats.remote_store import Remote
from shoal.formats.remote_transfer import Meter, Progress, name_of, read_live
from shoal.formats.versions import (
    CHECKSUM_FILE,
    CURRENT_FILE,
    MANIFEST_FILE,
    Current,
    current_line,
    parse_manifest,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteReport:
    """What `verify_remote` found; `faults` is empty for a sound index."""

    current: int
    versions: tuple[int, ...]
    n_files: int
    n_bytes: int
    faults: tuple[str, ...]


def verify_remote(remote: Remote, show: Progress) -> RemoteReport:
    """Check each version's manifest, and each file's size and SHA-256 by reading it.

    A file that no manifest lists is no fault: a push never deletes.

    Raises:
        IndexFormatError: there is no index at all, or its live manifest does not verify.
        UnavailableError, PermissionDeniedError: the URL can't be read.
    """
    live, _ = read_live(remote)
    faults: list[str] = []
    versions = remote.list_versions()
    manifests = []
    for version in versions:
        try:
            manifests.append(_manifest(remote, version, live))
        except IndexFormatError as error:
            faults.append(error.message)
    entries = {entry: None for manifest in manifests for entry in manifest.entries()}
    meter, sizes = Meter(show, "read kB", entries), remote.data_sizes()
    for entry in entries:
        where = f"{remote.url}/{entry.path}"
        n_bytes = sizes.get(entry.path)
        if n_bytes is None:
            faults.append(f"{where}: missing, though the manifest lists it")
        elif n_bytes != entry.n_bytes:
            faults.append(f"{where}: {n_bytes} bytes, the manifest says {entry.n_bytes}")
        elif remote.sha256_of(entry.path) != entry.sha256:
            faults.append(f"{where}: SHA-256 differs from the manifest's; it was altered")
        meter.add(entry.n_bytes)
    return RemoteReport(
        current=live.version,
        versions=versions,
        n_files=len(entries),
        n_bytes=meter.total,
        faults=tuple(faults),
    )


def copy_manifests(remote: Remote, folder: Path) -> None:
    """Make `folder` an index folder with the URL's manifests and CURRENT, and no data.

    Raises:
        IndexFormatError: there is no index at all.
        UnavailableError, PermissionDeniedError: the URL can't be read.
    """
    live, _ = read_live(remote)
    for version, file, content in _version_files(remote):
        path = folder / name_of(version, file)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    (folder / CURRENT_FILE).write_bytes(current_line(live))


def _version_files(remote: Remote) -> Iterator[tuple[int, str, bytes]]:
    for version in remote.list_versions():
        for file in (MANIFEST_FILE, CHECKSUM_FILE):
            content = remote.read(name_of(version, file))
            if content is not None:
                yield version, file, content


def _manifest(remote: Remote, version: int, live: Current) -> Manifest:
    where = f"{remote.url}/{name_of(version, MANIFEST_FILE)}"
    content = remote.read(name_of(version, MANIFEST_FILE))
    checksum = remote.read(name_of(version, CHECKSUM_FILE))
    if content is None or checksum is None:
        raise IndexFormatError(f"{where}: missing, or its {CHECKSUM_FILE} is")
    recorded = checksum.decode("ascii", "replace").strip()
    manifest = parse_manifest(where, content, Current(version, recorded))
    if version == live.version and hashlib.sha256(content).hexdigest() != live.manifest_sha256:
        raise IndexFormatError(f"{where}: SHA-256 differs from the one in {CURRENT_FILE}")
    return manifest
