"""Where a shard process takes its index from: a folder, or a URL through a checked local copy.

Rule: what `bring` returns has its files in place and proved; a URL is asked when a version is
opened, never while it serves. Must not know faiss.
"""

import asyncio
import logging
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from shard_server.segment import CheckFile, check_place
from shoal.errors import ConfigError, IndexFormatError, NotFoundError
from shoal.formats.manifest import Manifest
from shoal.formats.remote_url import default_cache_dir, is_url, refuse_credentials
from shoal.formats.versions import check_file, list_versions, load_manifest

if TYPE_CHECKING:  # fsspec is only there for URLs
    from shoal.formats.local_copy import LocalCopy

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Brought:
    """A shard's files: in `folder`, each to be checked by `check` before it is read.

    `proved` says that their bytes are then known to be the manifest's, by their SHA-256.
    """

    folder: Path
    check: CheckFile
    proved: bool


class IndexSource(Protocol):
    """What `Versions` opens versions from."""

    async def manifest(self, version: int | None) -> Manifest:
        """A version's manifest; None is the live one.

        Raises:
            NotFoundError: there is no such version.
            IndexFormatError: its manifest does not verify.
        """

    async def bring(self, manifest: Manifest, shard: int) -> Brought:
        """The files of one shard.

        Raises:
            IndexFormatError: one that is missing or not what the manifest says.
        """


class FolderSource:
    """An index folder on this machine's disk; with `verify`, files are hashed."""

    def __init__(self, folder: Path, *, verify: bool) -> None:
        self._folder = folder
        self._verify = verify

    async def manifest(self, version: int | None) -> Manifest:
        """As `IndexSource`."""
        if version is not None:
            known = await asyncio.to_thread(list_versions, self._folder)
            if version not in known:
                raise NotFoundError(f"version {version} is not in the index folder; {known} are")
        return await asyncio.to_thread(load_manifest, self._folder, version)

    async def bring(self, manifest: Manifest, shard: int) -> Brought:  # noqa: ARG002 -- all is here
        """As `IndexSource`."""
        return Brought(folder=self._folder, check=_check(verify=self._verify), proved=self._verify)


class UrlSource:
    """An index at a URL; the shard's files are copied to this machine before they are read.

    With `verify`, what was copied before is hashed again.
    """

    def __init__(self, copy: "LocalCopy", *, verify: bool) -> None:
        self._copy = copy
        self._verify = verify

    async def manifest(self, version: int | None) -> Manifest:
        """As `IndexSource`; a version that is copied already is not asked for."""
        return await asyncio.to_thread(self._copy.manifest, version)

    async def bring(self, manifest: Manifest, shard: int) -> Brought:
        """As `IndexSource`. Copying ends when the caller leaves."""
        left = threading.Event()

        def show(stage: str, done: int, total: int | None) -> None:  # noqa: ARG001
            if left.is_set():
                raise IndexFormatError("nobody waits for this version any more")

        # one that the version lacks is told of where it is read
        entries = manifest.shards[shard].entries() if shard < len(manifest.shards) else ()
        try:
            n_bytes = await asyncio.to_thread(
                lambda: self._copy.fetch(entries, show, check=_check(verify=self._verify))
            )
        except asyncio.CancelledError:
            left.set()
            raise
        logger.info(
            "version %d: %.1f MB copied from %s, the rest of %d files was here",
            manifest.version, n_bytes / 1e6, self._copy.remote.url, len(entries),
        )  # fmt: skip
        # `fetch` has hashed them, so their place is enough
        return Brought(folder=self._copy.folder, check=check_place, proved=self._verify)


def open_source(index: str, cache_dir: Path | None, *, verify: bool) -> IndexSource:
    """The source that `index`, a folder or a URL, names.

    Raises:
        ConfigError: a URL with credentials in it, or of a kind that is not known or not installed.
    """
    if not is_url(index):
        return FolderSource(Path(index), verify=verify)
    refuse_credentials(index)
    try:
        from shoal.formats.local_copy import LocalCopy  # noqa: PLC0415 -- only for a URL
    except ModuleNotFoundError as failure:
        raise ConfigError(
            f"--index is a URL, which needs {failure.name}: pip install 'shoal[remote]'"
        ) from failure
    return UrlSource(LocalCopy.of(index, cache_dir or default_cache_dir()), verify=verify)


def _check(*, verify: bool) -> CheckFile:
    return check_file if verify else check_place
