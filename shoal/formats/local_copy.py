"""A checked copy, on this machine, of what processes need of an index at a URL.

Rules:
1. Nothing counts before its size and SHA-256 are the manifest's; what is here and right stays.
2. Only what is asked for comes: a shard's files, not the others'. CURRENT stands here only once all
   of its version does.
3. Several processes share a copy: a lock a file, so that one brings it and the others wait; the
   kernel drops a killed process's.
4. A version number means one manifest for as long as the copy lives.
Must not know what the files hold.
"""

import contextlib
import fcntl
import hashlib
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from shoal.errors import ConfigError, IndexFormatError, NotFoundError
from shoal.formats.files import fsync_dir, guard_storage, write_durably
from shoal.formats.manifest import FileEntry, Manifest
from shoal.formats.remote_pull import STAGING_DIR, download
from shoal.formats.remote_store import Remote, open_remote
from shoal.formats.remote_transfer import Meter, Progress, name_of, read_live
from shoal.formats.remote_url import copy_folder
from shoal.formats.versions import (
    CHECKSUM_FILE,
    CURRENT_FILE,
    MANIFEST_FILE,
    VERSIONS_DIR,
    Current,
    check_file,
    current_line,
    load_manifest,
    parse_manifest,
)

CheckFile = Callable[[Path, FileEntry], Path]

_POLL_S = 0.1


class LocalCopy:
    """The copy in `folder` of the index at `remote`; nothing is asked until it must be."""

    def __init__(self, remote: Remote, folder: Path) -> None:
        self.remote = remote
        self.folder = folder

    @classmethod
    def of(cls, url: str, cache_dir: Path) -> "LocalCopy":
        """The copy of `url` under `cache_dir`.

        Raises:
            ConfigError: a URL of a kind that is not known or not installed.
        """
        return cls(open_remote(url), copy_folder(url, cache_dir))

    def ask(self, version: int | None) -> Manifest:
        """The manifest of a version as the URL has it now; None is its live one.

        Raises:
            NotFoundError: the URL has no such version.
            IndexFormatError: no index is there, or its manifest does not verify.
            ConfigError: the copy has another manifest of that number.
            UnavailableError, PermissionDeniedError, StorageError: URL or folder can't be used.
        """
        if version is None:
            current, content = read_live(self.remote)
        else:
            current, content = self._read_version(version)
        where = f"{self.remote.url}/{name_of(current.version, MANIFEST_FILE)}"
        manifest = parse_manifest(where, content, current)
        self._keep_manifest(current, content)
        return manifest

    def manifest(self, version: int | None) -> Manifest:
        """As `ask`, but a version that is here already is not asked for: it can't have changed."""
        if version is not None:
            with contextlib.suppress(IndexFormatError):
                return load_manifest(self.folder, version)
        return self.ask(version)

    def fetch(
        self, entries: Iterable[FileEntry], show: Progress, *, check: CheckFile = check_file
    ) -> int:
        """Bring the files that are not here, or not right; returns the bytes that were copied.

        Args:
            entries: the files that are needed.
            show: told of progress; what it raises ends the work and is raised.
            check: proves a file that is here.

        Raises:
            IndexFormatError: naming the URL of a file that is missing, cut short or altered.
            UnavailableError, PermissionDeniedError, StorageError: URL or folder can't be used.
        """
        lacking = [entry for entry in entries if not self._holds(entry, check)]
        meter = Meter(show, "copied kB", lacking)
        n_bytes = 0
        for entry in lacking:
            with self._locked(entry.sha256, meter):
                if self._holds(entry, check):  # another process brought it meanwhile
                    meter.add(entry.n_bytes)
                    continue
                staged = self.folder / STAGING_DIR / entry.sha256 / Path(entry.path).name
                with guard_storage(staged):
                    staged.parent.mkdir(exist_ok=True)
                download(self.remote, self.folder, staged, entry, meter)
                shutil.rmtree(staged.parent, ignore_errors=True)
                n_bytes += entry.n_bytes
        return n_bytes

    def fetch_all(self, manifest: Manifest, show: Progress) -> int:
        """Bring all of a version and make it the copy's live one: an index folder like any."""
        n_bytes = self.fetch(manifest.entries(), show)
        checksum = self.folder / name_of(manifest.version, CHECKSUM_FILE)
        with self._locked("versions", None), guard_storage(self.folder):
            current = Current(manifest.version, checksum.read_text().strip())
            write_durably(self.folder / CURRENT_FILE, current_line(current))
        return n_bytes

    def _read_version(self, version: int) -> tuple[Current, bytes]:
        checksum = self.remote.read(name_of(version, CHECKSUM_FILE))
        content = self.remote.read(name_of(version, MANIFEST_FILE))
        if checksum is None or content is None:
            raise NotFoundError(f"{self.remote.url}: version {version} is not there")
        return Current(version, checksum.decode("ascii", "replace").strip()), content

    def _keep_manifest(self, current: Current, content: bytes) -> None:
        folder = self.folder / VERSIONS_DIR / f"{current.version:06d}"
        with self._locked("versions", None), guard_storage(folder):
            with contextlib.suppress(IndexFormatError):
                load_manifest(self.folder, current.version)  # one that is broken is replaced
                here = (folder / MANIFEST_FILE).read_bytes()
                if hashlib.sha256(here).hexdigest() == current.manifest_sha256:
                    return
                raise ConfigError(
                    f"{self.remote.url}: its version {current.version} is another than before; "
                    f"once no cluster serves it, remove its copy {self.folder}, or choose another "
                    "--cache-dir"
                )
            partial = folder.with_name(f".{folder.name}.partial")
            for stale in (partial, folder):
                shutil.rmtree(stale, ignore_errors=True)
            partial.mkdir(parents=True)
            write_durably(partial / MANIFEST_FILE, content)
            write_durably(partial / CHECKSUM_FILE, f"{current.manifest_sha256}\n".encode())
            partial.rename(folder)
            fsync_dir(folder.parent)

    def _holds(self, entry: FileEntry, check: CheckFile) -> bool:
        try:
            check(self.folder, entry)
        except IndexFormatError:
            return False
        return True

    @contextlib.contextmanager
    def _locked(self, name: str, meter: Meter | None) -> Iterator[None]:
        path = self.folder / STAGING_DIR / f"{name}.lock"
        with guard_storage(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            file = path.open("ab")
        with file:
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    time.sleep(_POLL_S)
                    if meter is not None:  # whoever watches the progress may end the wait
                        meter.add(0)
            yield
