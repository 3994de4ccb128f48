"""What pushing and pulling share: progress, the outcome, and the names on the remote.

A remote's names are an index folder's own. Must not know what the files hold.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from shoal.errors import IndexFormatError
from shoal.formats.manifest import FileEntry
from shoal.formats.remote_store import Remote
from shoal.formats.versions import CURRENT_FILE, MANIFEST_FILE, VERSIONS_DIR, Current


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


class Meter:
    """Tells how much of the entries' bytes is done; `total` is in bytes."""

    def __init__(self, show: Progress, stage: str, entries: Iterable[FileEntry]) -> None:
        self.total = sum(entry.n_bytes for entry in entries)
        self._show, self._stage, self._done = show, stage, 0

    def add(self, n_bytes: int) -> None:
        """Counts bytes that were copied."""
        self._done += n_bytes
        self._show(self._stage, self._done // 1000, self.total // 1000)


def name_of(version: int, file: str) -> str:
    """The remote name of a version's file."""
    return f"{VERSIONS_DIR}/{version:06d}/{file}"


def read_live(remote: Remote) -> tuple[Current, bytes]:
    """The live version and its manifest's bytes; IndexFormatError where there is none."""
    current = remote.read_current()
    if current is None:
        raise IndexFormatError(f"{remote.url}: holds no index (no {CURRENT_FILE})")
    name = name_of(current.version, MANIFEST_FILE)
    content = remote.read(name)
    if content is None:
        raise IndexFormatError(f"{remote.url}/{name}: missing, though {CURRENT_FILE} names it")
    return current, content
