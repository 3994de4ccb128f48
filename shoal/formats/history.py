"""The versions of an index: told, rolled back to, pruned.

Rule: the live version always has the highest number that was ever live, so that a number never
means two contents; going back is a new manifest over old files. Must not know what the files hold.
"""

import shutil
from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from shoal import __version__
from shoal.errors import ConfigError, IndexFormatError
from shoal.formats.files import builder_lock, fsync_dir, guard_storage
from shoal.formats.manifest import FileEntry, Manifest
from shoal.formats.versions import (
    DATA_DIR,
    VERSIONS_DIR,
    check_file,
    commit_version,
    list_versions,
    load_manifest,
    read_current,
    remove_unfinished,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionSummary:
    """One version; `n_own_bytes` are those of files that no other version lists.

    `fault` says why its manifest can't be read, and the rest is then empty.
    """

    version: int
    is_live: bool
    created_at: str = ""
    n_live: int = 0
    n_shards: int = 0
    n_segments: int = 0
    recipe: str = ""
    n_bytes: int = 0
    n_own_bytes: int = 0
    fault: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pruned:
    """What `prune_versions` took away, and what is left."""

    removed: tuple[int, ...]
    kept: tuple[int, ...]
    n_files: int
    n_bytes: int


def summarize_versions(index_dir: Path) -> tuple[VersionSummary, ...]:
    """Every version, ascending; IndexFormatError where there is no index."""
    live = read_current(index_dir).version
    read: dict[int, Manifest | IndexFormatError] = {}
    for version in sorted({*list_versions(index_dir), live}):
        try:
            read[version] = load_manifest(index_dir, None if version == live else version)
        except IndexFormatError as error:
            read[version] = error
    n_lists: dict[FileEntry, int] = {}
    for manifest in read.values():
        for entry in manifest.entries() if isinstance(manifest, Manifest) else ():
            n_lists[entry] = n_lists.get(entry, 0) + 1
    return tuple(
        VersionSummary(version=version, is_live=version == live, fault=manifest.message)
        if isinstance(manifest, IndexFormatError)
        else VersionSummary(
            version=version,
            is_live=version == live,
            created_at=manifest.created_at,
            n_live=manifest.n_live,
            n_shards=len(manifest.shards),
            n_segments=sum(len(shard.segments) for shard in manifest.shards),
            recipe=manifest.recipe,
            n_bytes=sum(entry.n_bytes for entry in manifest.entries()),
            n_own_bytes=sum(e.n_bytes for e in manifest.entries() if n_lists[e] == 1),
        )
        for version, manifest in read.items()
    )


def roll_back(index_dir: Path, version: int | None = None) -> Manifest:
    """Make an earlier version's contents live again, as a new version; returns its manifest.

    None takes the newest version below the live one. Ordinals go on where the live version is.

    Raises:
        ConfigError: there is nothing to go back to, or the version is live already.
        IndexFormatError: the version, or a file that it lists, does not verify.
        LockedError: a builder is at work.
    """
    with builder_lock(_existing(index_dir)):
        live = load_manifest(index_dir)
        earlier = [number for number in list_versions(index_dir) if number < live.version]
        if version is None:
            if not earlier:
                raise ConfigError(
                    f"{index_dir}: version {live.version} is the oldest; nothing to go back to"
                )
            version = earlier[-1]
        if version not in earlier:
            known = ", ".join(map(str, earlier)) or "none"
            raise ConfigError(
                f"{index_dir}: version {version} is not below the live one, {live.version}; "
                f"earlier versions: {known}"
            )
        old = load_manifest(index_dir, version)
        for entry in old.entries():
            check_file(index_dir, entry)
        changes = {
            "version": max(list_versions(index_dir)) + 1,
            "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "release": __version__,
            "next_ordinal": max(old.next_ordinal, live.next_ordinal),
        }
        manifest = Manifest.model_validate({**dict(old), **changes})
        commit_version(index_dir, manifest)
    return manifest


def prune_versions(index_dir: Path, *, keep: int, pinned: Collection[int] = ()) -> Pruned:
    """Remove all but the live version and the `keep` - 1 newest before it, and unlisted files.

    `pinned` versions stay too. A version above the live one never was live: a build died there.

    Raises:
        ConfigError: `keep` is below 1.
        IndexFormatError: a version that stays can't be read, so its files are not known.
        LockedError: a builder is at work.
    """
    if keep < 1:
        raise ConfigError(f"keep is {keep}; the live version always stays, so it must be 1 or more")
    with builder_lock(_existing(index_dir)), guard_storage(index_dir):
        live = load_manifest(index_dir)
        versions = list_versions(index_dir)
        newest = [number for number in versions if number < live.version][::-1][: keep - 1]
        kept = {live.version, *newest, *(set(pinned) & set(versions))}
        # read before anything goes: a manifest that can't be read may list any file
        manifests = [live, *(load_manifest(index_dir, v) for v in sorted(kept - {live.version}))]
        removed = tuple(number for number in versions if number not in kept)
        for number in removed:
            _remove_version(index_dir, number)
        listed = {entry.path for manifest in manifests for entry in manifest.entries()}
        n_files, n_bytes = _remove_unlisted(index_dir, listed)
    return Pruned(removed=removed, kept=tuple(sorted(kept)), n_files=n_files, n_bytes=n_bytes)


def _existing(index_dir: Path) -> Path:
    read_current(index_dir)  # its error tells what to do; no lock file is left elsewhere
    return index_dir


def _remove_version(index_dir: Path, version: int) -> None:
    """First out of sight in one rename: a version is whole or gone, wherever this is killed."""
    folder = index_dir / VERSIONS_DIR / f"{version:06d}"
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    folder.rename(partial)
    fsync_dir(folder.parent)
    shutil.rmtree(partial)


def _remove_unlisted(index_dir: Path, listed: Collection[str]) -> tuple[int, int]:
    remove_unfinished(index_dir)
    n_files = n_bytes = 0
    data = index_dir / DATA_DIR
    for folder in sorted(data.iterdir()) if data.is_dir() else []:
        for path in sorted(folder.iterdir()):
            if path.relative_to(index_dir).as_posix() not in listed:
                n_files += 1
                n_bytes += path.stat().st_size
                path.unlink()
        if not any(folder.iterdir()):
            folder.rmdir()
    return n_files, n_bytes
