"""Check an index folder: `shoal index verify`.

Rule: reads every byte, reports every fault it finds, changes nothing.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from shard_server.building.staging import STAGING_DIR, Staging
from shard_server.faiss_files import read_familiar
from shoal.errors import IndexFormatError
from shoal.formats.deleted import read_deleted
from shoal.formats.files import LOCK_FILE
from shoal.formats.ids import IdFile
from shoal.formats.manifest import FileEntry, Manifest, Segment
from shoal.formats.passages import PassageFile
from shoal.formats.versions import (
    CHECKSUM_FILE,
    CURRENT_FILE,
    DATA_DIR,
    MANIFEST_FILE,
    VERSIONS_DIR,
    check_file,
    list_versions,
    load_manifest,
    read_current,
    unfinished_paths,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyReport:
    """What `verify_index` found; `faults` is empty for a sound index.

    `n_unfinished_bytes` are an interrupted build's or commit's, which is no fault: the same command
    goes on with it, and the next build that ends well takes it away.
    """

    current: int
    versions: tuple[int, ...]
    n_files: int
    n_bytes: int
    faults: tuple[str, ...]
    n_unfinished_bytes: int = 0


def verify_index(index_dir: Path) -> VerifyReport:
    """Check each version's manifest, each file's size and SHA-256, the counts, and strangers.

    Raises:
        IndexFormatError: where there is no index at all, or its CURRENT can't be read.
    """
    current = read_current(index_dir)
    versions = list_versions(index_dir)
    faults: list[str] = []
    manifests = list(_manifests(index_dir, versions, faults))
    if not faults:
        # CURRENT has the live manifest's SHA-256 too.
        list(_manifests(index_dir, (None,), faults))
    entries = {entry for manifest in manifests for entry in manifest.entries()}
    for entry in sorted(entries, key=lambda entry: entry.path):
        try:
            check_file(index_dir, entry)
        except IndexFormatError as error:
            faults.append(error.message)
    if not faults:
        segments = {s: m for m in manifests for shard in m.shards for s in shard.segments}
        for segment, manifest in segments.items():
            faults += _count_faults(index_dir, manifest, segment)
    listed = {entry.path for entry in entries}
    if len(manifests) == len(versions):
        faults += [f"{path}: no manifest lists it" for path in _strangers(index_dir, listed)]
    return VerifyReport(
        current=current.version,
        versions=versions,
        n_files=len(entries),
        n_bytes=sum(entry.n_bytes for entry in entries),
        faults=tuple(faults),
        n_unfinished_bytes=_n_unfinished_bytes(index_dir),
    )


def _manifests(
    index_dir: Path, versions: Iterable[int | None], faults: list[str]
) -> Iterator[Manifest]:
    for version in versions:
        try:
            yield load_manifest(index_dir, version)
        except IndexFormatError as error:
            faults.append(error.message)


def _count_faults(index_dir: Path, manifest: Manifest, segment: Segment) -> Iterator[str]:
    """Files that can't be opened or whose rows are not the segment's; their bytes are checked."""
    files = segment.files
    sizes = {"n_lists": manifest.n_lists, "dim": manifest.dim}
    counted: list[tuple[FileEntry | None, Callable[[Path], int]]] = [
        (files.deleted, partial(_count_deleted, segment)),
        (files.passages, lambda path: PassageFile.open(path).n_rows),
        (files.ids, lambda path: IdFile.open(path).n_rows),
        (files.index, lambda path: int(read_familiar(path, mapped=True, **sizes).ntotal)),
        (files.vectors, lambda path: int(read_familiar(path, mapped=True, **sizes).ntotal)),
    ]
    for entry, count in counted:
        if entry is None:
            continue
        path = index_dir / entry.path
        try:
            n_rows = count(path)
        except IndexFormatError as error:
            yield error.message
            continue
        if n_rows != segment.n_rows:
            yield f"{path}: {n_rows} rows, the manifest says {segment.n_rows}"


def _count_deleted(segment: Segment, path: Path) -> int:
    return len(read_deleted(path, n_rows=segment.n_rows, n_live=segment.n_live))


def _n_unfinished_bytes(index_dir: Path) -> int:
    left = [f for path in unfinished_paths(index_dir) for f in (path, *path.rglob("*"))]
    return Staging(index_dir=index_dir).n_bytes() + sum(
        path.stat().st_size for path in left if path.is_file()
    )


def _strangers(index_dir: Path, listed: set[str]) -> Iterator[Path]:
    """Files in the folder that neither a manifest, the format nor an unfinished build explains."""
    staging = Staging(index_dir=index_dir)
    published = staging.published()
    unfinished = unfinished_paths(index_dir)
    for path in sorted(index_dir.rglob("*")):
        name = path.relative_to(index_dir).as_posix()
        if path.is_dir() or name in listed or name in {CURRENT_FILE, LOCK_FILE}:
            continue
        if any(path.is_relative_to(left) for left in unfinished):
            continue
        top, *rest = name.split("/")
        if top == STAGING_DIR or (top == DATA_DIR and len(rest) == 2 and rest[0] in published):
            continue
        is_version = len(rest) == 2 and rest[0].isdigit()
        if top == VERSIONS_DIR and is_version and rest[1] in {MANIFEST_FILE, CHECKSUM_FILE}:
            continue
        yield path
