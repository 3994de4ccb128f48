"""What the stages of a build leave behind, so that a killed build goes on where it was.

Rule: an output lies in a folder named by the hash of all that it was made from, under that name
only when it is whole, and its files are proved by SHA-256 before they are used again. Another
corpus, encoder or recipe has other names: nothing that doesn't fit can be found. Must not know what
the stages do.
"""

import hashlib
import json
import os
import re
import shutil
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from shard_server.building.progress import Progress, silent
from shoal.errors import IndexFormatError
from shoal.formats.files import fsync_dir, sha256_of, write_durably
from shoal.formats.manifest import FileEntry
from shoal.formats.versions import DATA_DIR

STAGING_DIR = ".staging"
SUMS_FILE = "sums"
"""Beside the vectors of an unfinished encoding: 8 bytes for each whole chunk."""
_SEAL_FILE = "sealed.json"
_OUTPUT = re.compile(r"^(encode|copy|float32|sample|train|split|index|deleted)-[0-9a-f]{32}$")
_STREAMED = ("encode", "copy")
_SEVERAL = ("index", "deleted")


class _Seal(BaseModel):
    """The files of a finished output, by their paths within its folder."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    files: dict[str, FileEntry]


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """A finished output. A file lies in `folder`, or in the index's data once it was published."""

    index_dir: Path
    folder: Path
    files: Mapping[str, FileEntry]

    def path(self, name: str) -> Path:
        """Where the file is now."""
        staged = self.folder / name
        return staged if staged.exists() else self.index_dir / self.files[name].path


@dataclass(frozen=True, slots=True, kw_only=True)
class Staging:
    """The outputs in an index's staging folder; `progress` is told which are used again."""

    index_dir: Path
    progress: Progress = silent

    @property
    def folder(self) -> Path:
        """Where they lie."""
        return self.index_dir / STAGING_DIR

    def make(
        self, stage: str, inputs: Mapping[str, Any], write: Callable[[Path], None]
    ) -> tuple[Output, bool]:
        """The output of `stage` for these inputs, and whether it was there already.

        `write` makes its files in the folder that it is given. Outputs of the same stage from
        other inputs are removed, but those of which a build has several (`index`, `deleted`).
        """
        folder = self.folder / f"{stage}-{key_of(inputs)}"
        if stage not in _SEVERAL:
            self.drop_others(stage, {folder.name})
        kept = self._proved(folder)
        if kept is not None:
            return kept, True
        shutil.rmtree(folder, ignore_errors=True)
        # a name of its own: a worker of a build that was killed may not have noticed yet
        partial = folder.with_name(f"{folder.name}.{uuid.uuid4().hex[:8]}.partial")
        partial.mkdir(parents=True)
        write(partial)
        files = {
            path.relative_to(partial).as_posix(): _sealed(path)
            for path in sorted(partial.rglob("*"))
            if path.is_file()
        }
        write_durably(partial / _SEAL_FILE, _Seal(files=files).model_dump_json().encode())
        try:
            partial.rename(folder)
        except OSError:
            theirs = self._proved(folder)  # that worker was first
            if theirs is None:
                raise
            shutil.rmtree(partial, ignore_errors=True)
            return theirs, True
        fsync_dir(self.folder)
        return Output(index_dir=self.index_dir, folder=folder, files=files), False

    def stream(self, stage: str, inputs: Mapping[str, Any]) -> Path:
        """The folder of an output that grows chunk by chunk ("encode", "copy"), made if need be."""
        folder = self.stream_folder(stage, inputs)
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def stream_folder(self, stage: str, inputs: Mapping[str, Any]) -> Path:
        """Where `stream` has that output, or would."""
        return self.folder / f"{stage}-{key_of(inputs)}"

    def streams(self) -> frozenset[Path]:
        """The folders of outputs that grow chunk by chunk, whoever's they are."""
        return frozenset(path for stage in _STREAMED for path in self.folder.glob(f"{stage}-*"))

    def drop_others(self, stage: str, names: Collection[str]) -> None:
        """Remove the outputs of `stage` that are not named so."""
        for folder in self.folder.glob(f"{stage}-*"):
            if folder.name not in names:
                shutil.rmtree(folder, ignore_errors=True)

    def sweep(self) -> None:
        """Remove all that is no output: what was being written when a build died."""
        for path in self.folder.iterdir() if self.folder.is_dir() else ():
            if not _OUTPUT.match(path.name):
                shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink()

    def published(self) -> frozenset[str]:
        """SHA-256 of the files that finished outputs may have among the index's data."""
        seals = (_read_seal(path.parent) for path in self.folder.glob(f"*/{_SEAL_FILE}"))
        return frozenset(
            entry.sha256 for seal in seals if seal is not None for entry in seal.files.values()
        )

    def was_committed(self, live: Collection[str]) -> bool:
        """Whether segments made here are among the live version's files, of these SHA-256."""
        seals = (_read_seal(folder) for folder in self.folder.glob("split-*"))
        return any(
            seal is not None and {entry.sha256 for entry in seal.files.values()} <= set(live)
            for seal in seals
        )

    def has_encoded(self, *, copies_too: bool = False) -> bool:
        """Whether any chunk was encoded; with `copies_too`, or copied from a file."""
        stages = _STREAMED if copies_too else _STREAMED[:1]
        return any(
            path.stat().st_size > 0
            for stage in stages
            for path in self.folder.glob(f"{stage}-*/{SUMS_FILE}")
        )

    def n_bytes(self, *, but: AbstractSet[Path] = frozenset()) -> int:
        """What lies in the folder, without the files and folders `but`."""
        return sum(
            path.stat().st_size for path in _files(self.folder) if not but & {path, *path.parents}
        )

    def _proved(self, folder: Path) -> Output | None:
        seal = _read_seal(folder)
        if seal is None:
            return None
        output = Output(index_dir=self.index_dir, folder=folder, files=seal.files)
        for name, entry in seal.files.items():
            path = output.path(name)
            if not path.is_file() or sha256_of(path) != entry.sha256:
                return None
        return output


def key_of(inputs: Mapping[str, Any]) -> str:
    """32 hex digits for JSON values by name, the same for the same values in any order. Pure."""
    text = json.dumps(inputs, sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def publish(output: Output, name: str) -> FileEntry:
    """Move a file of a finished output among the index's data, unless it is there already."""
    entry = output.files[name]
    staged, target = output.folder / name, output.index_dir / entry.path
    if staged.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        staged.replace(target)
        fsync_dir(target.parent)
        fsync_dir(target.parent.parent)
    elif not target.exists():
        raise IndexFormatError(f"{target}: went away while the build was at work; build again")
    return entry


def _sealed(path: Path) -> FileEntry:
    """The entry of a finished file, once its bytes are on the disk."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        os.fsync(file.fileno())
        n_bytes = os.fstat(file.fileno()).st_size
    return FileEntry(path=f"{DATA_DIR}/{digest}/{path.name}", n_bytes=n_bytes, sha256=digest)


def _read_seal(folder: Path) -> _Seal | None:
    try:
        return _Seal.model_validate_json((folder / _SEAL_FILE).read_bytes())
    except (OSError, ValidationError):
        return None


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file())
