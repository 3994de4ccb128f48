"""An index's folder behind a URL, through fsspec.

Rule: every failure is a ShoalError that names the URL, and a small file is replaced in one write.
Must not know what is pushed or pulled, or in which order.
"""

import contextlib
import errno
import hashlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from shoal.errors import (
    ConfigError,
    IndexFormatError,
    PermissionDeniedError,
    ShoalError,
    StorageError,
    UnavailableError,
)
from shoal.formats.files import fsync_dir, write_durably
from shoal.formats.remote_url import redacted
from shoal.formats.versions import (
    CURRENT_FILE,
    DATA_DIR,
    MANIFEST_FILE,
    VERSIONS_DIR,
    Current,
    parse_current,
)

CHUNK_BYTES = 4 << 20
# their folders are only names; to make one might make a bucket
_BUCKET_STORES = frozenset({"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "oss", "oci"})


class Remote:
    """The files under one URL; names are relative, with slashes."""

    def __init__(self, url: str, filesystem: Any, root: str) -> None:
        self.url = redacted(url).rstrip("/")  # for messages
        self._fs = filesystem
        self._root = root.rstrip("/")
        self._is_local = isinstance(filesystem, LocalFileSystem)
        protocol = filesystem.protocol
        protocols = {protocol} if isinstance(protocol, str) else set(protocol)
        self._has_folders = not protocols & _BUCKET_STORES

    def read(self, name: str) -> bytes | None:
        """A small file's content; None where it is not there."""
        with self._reaching(name):
            try:
                return bytes(self._fs.cat_file(self._path(name)))
            except FileNotFoundError:
                return None

    def read_current(self) -> Current | None:
        """The live version; None where there is none; IndexFormatError where the line is broken."""
        content = self.read(CURRENT_FILE)
        if content is None:
            return None
        return parse_current(f"{self.url}/{CURRENT_FILE}", content.decode("ascii", "replace"))

    def chunks(self, name: str) -> Iterator[bytes]:
        """A file's bytes in pieces; IndexFormatError where it is missing."""
        with self._reaching(name):
            try:
                file = self._fs.open(self._path(name), "rb")
            except FileNotFoundError:
                raise IndexFormatError(
                    f"{self.url}/{name}: missing, though the manifest lists it"
                ) from None
            with file:
                while chunk := file.read(CHUNK_BYTES):
                    yield chunk

    def list_versions(self) -> tuple[int, ...]:
        """The versions that have a manifest there, ascending."""
        with self._reaching(VERSIONS_DIR):
            self._fs.invalidate_cache()
            try:
                found = self._fs.find(self._path(VERSIONS_DIR))
            except FileNotFoundError:
                return ()
        names = [path.split("/")[-2:] for path in found]
        return tuple(sorted(int(v) for v, file in names if file == MANIFEST_FILE and v.isdecimal()))

    def sha256_of(self, name: str) -> str:
        """A file's SHA-256 in hex, by reading it back."""
        digest = hashlib.sha256()
        for chunk in self.chunks(name):
            digest.update(chunk)
        return digest.hexdigest()

    def data_sizes(self) -> dict[str, int]:
        """The sizes in bytes of all files in the data folder, by name."""
        with self._reaching(DATA_DIR):
            self._fs.invalidate_cache()
            try:
                found = self._fs.find(self._path(DATA_DIR), detail=True)
            except FileNotFoundError:
                return {}
        return {path[len(self._root) + 1 :]: info["size"] for path, info in found.items()}

    def size_of(self, name: str) -> int:
        """A file's size in bytes."""
        with self._reaching(name):
            self._fs.invalidate_cache()
            return int(self._fs.info(self._path(name))["size"])

    def upload(self, name: str, chunks: Iterable[bytes]) -> None:
        """Write a large file; one that was cut short may be left where this fails."""
        path = self._path(name)
        with self._reaching(name):
            self._make_parent(path)
            with self._fs.open(path, "wb") as file:
                for chunk in chunks:
                    file.write(chunk)
                if self._is_local:
                    file.flush()
                    os.fsync(file.fileno())
            if self._is_local:
                fsync_dir(Path(path).parent)
                fsync_dir(Path(path).parent.parent)

    def write(self, name: str, content: bytes) -> None:
        """Replace a small file in one write: readers see the old content or the new."""
        path = self._path(name)
        with self._reaching(name):
            self._make_parent(path)
            if self._is_local:  # its pipe_file would empty the file before it fills it
                write_durably(Path(path), content)
            else:
                self._fs.pipe_file(path, content)

    def delete(self, name: str) -> None:
        """Take a file away, if it is there."""
        with self._reaching(name), contextlib.suppress(FileNotFoundError):
            self._fs.rm_file(self._path(name))

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    def _make_parent(self, path: str) -> None:
        if self._has_folders:
            self._fs.makedirs(path.rpartition("/")[0], exist_ok=True)

    @contextlib.contextmanager
    def _reaching(self, name: str) -> Iterator[None]:
        where = f"{self.url}/{name}"
        try:
            yield
        except ShoalError:
            raise
        except PermissionError as error:
            raise PermissionDeniedError(f"{where}: not permitted: {redacted(str(error))}") from None
        except Exception as error:  # each filesystem has exceptions of its own
            if isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT}:
                raise StorageError(f"{where}: can't be written: {error.strerror}") from error
            what = redacted(str(error)) or type(error).__name__
            raise UnavailableError(f"{where}: can't be reached: {what}") from None


def open_remote(url: str) -> Remote:
    """The folder at `url`, such as s3://bucket/indexes/wiki; nothing is asked of it yet.

    Raises:
        ConfigError: it is no URL, or of a kind that is not known or not installed.
    """
    if "://" not in url:
        raise ConfigError(f"{redacted(url)!r} is no URL; write s3://BUCKET/PATH or file:///PATH")
    try:
        filesystem, root = fsspec.core.url_to_fs(url)
    except ImportError as error:
        what = redacted(f"{url}: {error}")
        raise ConfigError(f"{what}; s3 needs pip install 'shoal[remote]'") from None
    except ValueError as error:
        raise ConfigError(redacted(f"{url}: {error}")) from None
    return Remote(url, filesystem, root)
