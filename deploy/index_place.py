"""Where the index of a command lies: a folder, or a URL and its copy on this machine.

Must not know what is in it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from shoal.formats.remote_url import (
    copy_folder,
    default_cache_dir,
    is_url,
    redacted,
    refuse_credentials,
)

if TYPE_CHECKING:  # fsspec and pydantic are not in the bare install
    from shoal.formats.local_copy import LocalCopy
    from shoal.formats.manifest import Manifest
    from shoal.formats.remote_transfer import Progress


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexPlace:
    """`folder` is the index's own, or that of the copy of what lies at `url`."""

    folder: Path
    url: str = ""

    @classmethod
    def of(cls, index: str, cache_dir: Path | None) -> "IndexPlace":
        """What --index and --cache-dir say."""
        if is_url(index):
            folder = copy_folder(index, (cache_dir or default_cache_dir()).resolve())
            return cls(folder=folder, url=index)
        return cls(folder=Path(index).resolve())

    def __str__(self) -> str:
        """For messages: no secrets."""
        return redacted(self.url) if self.url else str(self.folder)

    @property
    def cache_dir(self) -> Path:
        """What --cache-dir must say so that another process has the same copy."""
        return self.folder.parent

    def refuse_credentials(self) -> None:
        """ConfigError where processes would keep a URL with secrets."""
        if self.url:
            refuse_credentials(self.url)

    def manifest(self, version: int | None = None) -> "Manifest":
        """A version's manifest as the place has it now; None is the live one.

        Raises:
            NotFoundError, IndexFormatError: it is not there, or does not verify.
            ConfigError: the copy has another manifest of that number.
            UnavailableError, PermissionDeniedError: the URL can't be reached.
        """
        if self.url:
            return self._copy().ask(version)
        from shoal.formats.versions import load_manifest  # noqa: PLC0415 -- `down` does without it

        return load_manifest(self.folder, version)

    def whole(self, show: "Progress") -> Path:
        """An index folder with all of the live version; a URL's is copied first."""
        if self.url:
            copy = self._copy()
            copy.fetch_all(copy.ask(None), show)
        return self.folder

    @contextmanager
    def manifests(self) -> Iterator[Path]:
        """An index folder with every version's manifest; a URL's lasts as long as the block."""
        if not self.url:
            yield self.folder
            return
        from shoal.formats.remote_verify import copy_manifests  # noqa: PLC0415 -- only for a URL

        with TemporaryDirectory(prefix="shoal-") as folder:
            copy_manifests(self._copy().remote, Path(folder))
            yield Path(folder)

    def _copy(self) -> "LocalCopy":
        from shoal.formats.local_copy import LocalCopy  # noqa: PLC0415 -- only for a URL
        from shoal.formats.remote_store import open_remote  # noqa: PLC0415 -- only for a URL

        return LocalCopy(open_remote(self.url), self.folder)
