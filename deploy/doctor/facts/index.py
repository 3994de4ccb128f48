"""The index on disk: its versions, its files, and as many of their checksums as there is time for.

Rule: all sizes are compared, and files are hashed smallest first up to a number of bytes, since an
index may take hours to read; `deep` reads every byte, as `shoal index verify` does.
"""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from deploy.doctor.facts.index_files import check_deeply, check_files, unfinished_bytes
from deploy.doctor.facts.limits import Room, room_of
from deploy.index_place import IndexPlace
from shoal.errors import IndexFormatError, NotFoundError
from shoal.formats.history import summarize_versions
from shoal.formats.manifest import Manifest
from shoal.formats.versions import load_manifest

HASHED_BYTES = 1 << 30
"""Some seconds of SHA-256 on one core."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexFacts:
    """An index folder, or the folder of a URL's copy.

    `versions` are all that are there, `live` is CURRENT's; the counts after it are of the live
    version and, where a cluster serves another one, of that too. `n_hashed_bytes` of `n_bytes` were
    read and compared. `index_bytes` is what each shard of the live version holds in memory, by
    shard number; `mapped_bytes` is what all of them read through the page cache. `prunable` are
    versions that nobody serves, with the bytes that only they hold.
    """

    place: str
    faults: tuple[str, ...] = ()
    name: str = ""
    live: int = 0
    versions: tuple[int, ...] = ()
    created_at: str = ""
    devices: tuple[str, ...] = ()
    n_live: int = 0
    n_shards: int = 0
    n_segments: int = 0
    n_files: int = 0
    n_bytes: int = 0
    n_hashed_bytes: int = 0
    is_deep: bool = False
    index_bytes: tuple[int, ...] = ()
    mapped_bytes: int = 0
    prunable: tuple[int, ...] = ()
    n_prunable_bytes: int = 0
    n_unfinished_bytes: int = 0
    room: Room | None = None


def read_index(
    place: IndexPlace, served: Collection[int], *, deep: bool, budget: int = HASHED_BYTES
) -> IndexFacts:
    """What lies at `place`; what is wrong with it is among `faults`.

    Args:
        place: a folder, or a URL, of which the copy on this machine is looked at.
        served: versions that running clusters use.
        deep: read every byte of every version.
        budget: bytes to hash otherwise.

    Raises:
        OSError: the folder can't be looked into.
    """
    folder = place.folder
    try:
        live = load_manifest(folder)
        summaries = summarize_versions(folder)
    except IndexFormatError as failure:
        return IndexFacts(place=str(place), faults=(failure.message,))
    faults = [f"version {s.version}: {s.fault}" for s in summaries if s.fault]
    in_use = [live, *_served(folder, live, served, faults)]
    entries = tuple(dict.fromkeys(entry for m in in_use for entry in m.entries()))
    n_hashed = 0
    if deep:
        faults, n_unfinished = check_deeply(folder)
        n_hashed = sum(entry.n_bytes for entry in entries)
    else:
        found, n_hashed = check_files(folder, entries, budget)
        faults += found
        n_unfinished = unfinished_bytes(folder)
    old = [s for s in summaries if s.version not in {live.version, *served}]
    return IndexFacts(
        place=str(place),
        faults=tuple(faults),
        name=live.name,
        live=live.version,
        versions=tuple(s.version for s in summaries),
        created_at=live.created_at,
        devices=live.devices,
        n_live=live.n_live,
        n_shards=len(live.shards),
        n_segments=sum(len(shard.segments) for shard in live.shards),
        n_files=len(entries),
        n_bytes=sum(entry.n_bytes for entry in entries),
        n_hashed_bytes=n_hashed,
        is_deep=deep,
        index_bytes=index_bytes(live),
        mapped_bytes=_mapped_bytes(live),
        prunable=tuple(s.version for s in old),
        n_prunable_bytes=sum(s.n_own_bytes for s in old),
        n_unfinished_bytes=n_unfinished,
        room=room_of(folder),
    )


def index_bytes(manifest: Manifest) -> tuple[int, ...]:
    """What each shard holds in memory, at least: its compressed index, 8 bytes a passage. Pure."""
    return tuple(
        sum(s.files.index.n_bytes if s.files.index else 0 for s in shard.segments)
        + 8 * shard.n_rows
        for shard in manifest.shards
    )


def _mapped_bytes(manifest: Manifest) -> int:
    segments = [segment for shard in manifest.shards for segment in shard.segments]
    return sum(
        s.files.vectors.n_bytes + s.files.passages.n_bytes + s.files.ids.n_bytes for s in segments
    )


def _served(
    folder: Path, live: Manifest, served: Collection[int], faults: list[str]
) -> list[Manifest]:
    found = []
    for version in sorted({*served} - {live.version}):
        try:
            found.append(load_manifest(folder, version))
        except (IndexFormatError, NotFoundError) as failure:
            faults.append(f"version {version}, which a cluster serves: {failure.message}")
    return found
