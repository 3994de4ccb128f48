"""The manifest: what one version of an index is made of, and how it is read and committed.

Rule: nothing is believed before its checksum holds, and CURRENT turns last of all, by one atomic
rename: a reader sees the old version or the new one, whole. Must not know what the files hold.
"""

import hashlib
import re
import shutil
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from shoal.contract import EncoderContract
from shoal.errors import IndexFormatError
from shoal.formats.files import fsync_dir, guard_storage, sha256_of, write_durably

CURRENT_FILE = "CURRENT"
VERSIONS_DIR = "versions"
DATA_DIR = "data"
MANIFEST_FILE = "manifest.json"
CHECKSUM_FILE = "manifest.sha256"

MetadataType = Literal["string", "int64", "double", "bool", "string_list"]
Metric = Literal["inner_product", "l2"]
Device = Literal["cpu", "cuda"]
CalibrationQueries = Literal["file", "passages", "vectors"]
Count = Annotated[int, Field(ge=0)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]

INDEX_NAME = re.compile(r"^[a-z0-9_-]{1,64}$")
_FILE_PATH = re.compile(r"^data/([0-9a-f]{64})/[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$")
_CURRENT_LINE = re.compile(r"^([0-9]{6,12}) ([0-9a-f]{64})\n?$")


class _Value(BaseModel):
    """A frozen value that refuses fields it doesn't know."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class FileEntry(_Value):
    """One file of the index; `path` is `data/<sha256>/<name>` and can't leave the folder."""

    path: str
    n_bytes: Count
    sha256: Sha256

    @model_validator(mode="after")
    def _lies_under_its_own_hash(self) -> "FileEntry":
        match = _FILE_PATH.match(self.path)
        if match is None or match[1] != self.sha256:
            raise ValueError(f"path {self.path!r} is not data/<its own sha256>/<name>")
        return self


class SegmentFiles(_Value):
    """The files of one segment. `index` is None where the vectors are the whole index (Flat)."""

    index: FileEntry | None
    vectors: FileEntry
    passages: FileEntry
    ids: FileEntry
    deleted: FileEntry | None = None


class Segment(_Value):
    """A part of a shard, written once. Rows are 0..n_rows-1 in ingestion order."""

    n_rows: Count
    n_live: Count
    files: SegmentFiles

    @model_validator(mode="after")
    def _counts_agree(self) -> "Segment":
        if self.n_live > self.n_rows or (self.files.deleted is None and self.n_live != self.n_rows):
            raise ValueError(f"n_live {self.n_live} does not fit n_rows {self.n_rows}")
        return self


class Shard(_Value):
    """A part of a version: a list of segments, empty where no id hashes to it."""

    segments: tuple[Segment, ...]

    @property
    def n_rows(self) -> int:
        """Rows of all segments, deleted ones included."""
        return sum(segment.n_rows for segment in self.segments)

    @property
    def n_live(self) -> int:
        """Passages that a search can find."""
        return sum(segment.n_live for segment in self.segments)


class Partition(_Value):
    """How a passage finds its shard: `function(id) % n_shards`, little-endian unsigned 64 bits."""

    kind: Literal["hash"] = "hash"
    function: Literal["blake2b-64"] = "blake2b-64"
    seed: Literal[0] = 0
    n_shards: Annotated[int, Field(ge=1)]


class OperatingPoint(_Value):
    """A measured setting: the `recall` of the true k that it promises, at `oversample` x k
    candidates and `n_probe`, which is 0 without lists.
    """

    n_probe: Annotated[int, Field(ge=0, le=2048)]
    oversample: Annotated[float, Field(ge=0)]
    recall: Annotated[float, Field(ge=0, le=1)]
    k: Annotated[int, Field(ge=1, le=1000)]


class Calibration(_Value):
    """How `operating_points` were measured: on which queries, and how sure each `recall` is.

    Queries are a file's, titles and first sentences of the passages, or stored vectors; the last
    two with their own row left out. `target_recall` is what the defaults were set for.
    """

    queries: CalibrationQueries
    n_queries: Count
    confidence: Annotated[float, Field(gt=0, lt=1)]
    target_recall: Annotated[float, Field(gt=0, le=1)]
    created_at: str


class Manifest(_Value):
    """One immutable version of an index.

    `next_ordinal` is the ordinal of the next passage ever added; `n_lists` and `default_n_probe`
    are 0 for a recipe without lists; `trained` is None where there is nothing to train (Flat).
    `operating_points` stand by k, and cheapest first among those of one k.
    """

    format: Literal[1] = 1
    min_reader: Literal[1] = 1
    name: Annotated[str, Field(pattern=INDEX_NAME)]
    version: Annotated[int, Field(ge=1)]
    created_at: str
    release: str
    n_rows: Count
    n_live: Count
    next_ordinal: Count
    dim: Annotated[int, Field(ge=1)]
    metric: Metric
    vector_dtype: Literal["float16"] = "float16"
    recipe: str
    n_lists: Count
    default_n_probe: Annotated[int, Field(ge=0, le=2048)]
    default_oversample: Annotated[float, Field(ge=0)] = 10.0
    seed: int
    n_training_vectors: Count
    devices: tuple[Device, ...]
    partition: Partition
    trained: FileEntry | None
    shards: tuple[Shard, ...]
    metadata_columns: dict[str, MetadataType]
    encoder: EncoderContract | None
    operating_points: tuple[OperatingPoint, ...] = ()
    calibration: Calibration | None = None

    @model_validator(mode="after")
    def _counts_agree(self) -> "Manifest":
        n_rows = sum(shard.n_rows for shard in self.shards)
        n_live = sum(shard.n_live for shard in self.shards)
        if (self.n_rows, self.n_live) != (n_rows, n_live):
            raise ValueError(
                f"n_rows {self.n_rows}, n_live {self.n_live}; but shards hold {n_rows}, {n_live}"
            )
        if len(self.shards) != self.partition.n_shards:
            raise ValueError(
                f"{len(self.shards)} shards listed, partition says {self.partition.n_shards}"
            )
        if self.next_ordinal < self.n_rows:
            raise ValueError(f"next_ordinal {self.next_ordinal} is below n_rows {self.n_rows}")
        if self.default_n_probe > self.n_lists:
            raise ValueError(
                f"default_n_probe {self.default_n_probe} exceeds n_lists {self.n_lists}"
            )
        return self

    def entries(self) -> tuple[FileEntry, ...]:
        """Every file of this version, shared ones once, in a fixed order."""
        listed = [self.trained]
        for shard in self.shards:
            for segment in shard.segments:
                files = segment.files
                listed += [files.index, files.vectors, files.passages, files.ids, files.deleted]
        return tuple(dict.fromkeys(entry for entry in listed if entry is not None))


class Current(NamedTuple):
    """What CURRENT says: the live version, and the SHA-256 of its manifest.json."""

    version: int
    manifest_sha256: str


def read_current(index_dir: Path) -> Current:
    """The live version of the index at `index_dir`; IndexFormatError where there is none."""
    path = index_dir / CURRENT_FILE
    try:
        line = path.read_bytes().decode("ascii", "replace")
    except FileNotFoundError:
        raise IndexFormatError(
            f"{index_dir} holds no index (no {CURRENT_FILE}); make one with `shoal index build`"
        ) from None
    except OSError as error:
        raise IndexFormatError(f"{path}: can't be read: {error.strerror}") from error
    return parse_current(path, line)


def parse_current(where: Path | str, line: str) -> Current:
    """What a CURRENT file's line says; IndexFormatError naming `where` if it isn't one."""
    match = _CURRENT_LINE.match(line)
    if match is None:
        raise IndexFormatError(f"{where}: expected '<version> <sha256>', got {line[:80]!r}")
    return Current(int(match[1]), match[2])


def current_line(current: Current) -> bytes:
    """What stands in CURRENT for this version."""
    return f"{current.version:06d} {current.manifest_sha256}\n".encode()


def list_versions(index_dir: Path) -> tuple[int, ...]:
    """The versions whose folders exist, ascending; the live one is CURRENT's."""
    folders = (index_dir / VERSIONS_DIR).glob("[0-9]*")
    return tuple(sorted(int(folder.name) for folder in folders if folder.name.isdigit()))


def load_manifest(index_dir: Path, version: int | None = None) -> Manifest:
    """Read and check one version's manifest; None means the live one.

    Raises:
        IndexFormatError: naming the file that is missing, altered, malformed or too new.
    """
    if version is None:
        version, expected = read_current(index_dir)
    else:
        expected = _read_checksum(index_dir, version)
    path = _version_dir(index_dir, version) / MANIFEST_FILE
    try:
        content = path.read_bytes()
    except OSError as error:
        raise IndexFormatError(f"{path}: can't be read: {error.strerror}") from error
    return parse_manifest(path, content, Current(version, expected))


def parse_manifest(where: Path | str, content: bytes, expected: Current) -> Manifest:
    """The manifest in `content`, once its SHA-256 and version are the expected ones.

    Raises:
        IndexFormatError: naming `where`, and what about it is altered, malformed or too new.
    """
    if hashlib.sha256(content).hexdigest() != expected.manifest_sha256:
        raise IndexFormatError(
            f"{where}: SHA-256 differs from the recorded one; the file was altered"
        )
    try:
        manifest = Manifest.model_validate_json(content)
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in fault["loc"]) or "the whole"
        hint = "; a newer release of shoal wrote it" if field in {"format", "min_reader"} else ""
        raise IndexFormatError(f"{where}: field {field}: {fault['msg']}{hint}") from None
    if manifest.version != expected.version:
        raise IndexFormatError(
            f"{where}: says version {manifest.version}, its folder says {expected.version}"
        )
    return manifest


def commit_version(index_dir: Path, manifest: Manifest) -> Current:
    """Write `manifest` as a new version and make it the live one; all its files must lie in place.

    Raises:
        IndexFormatError: the version exists already (a version is never rewritten).
        StorageError: the disk is full, read-only or not ours.
    """
    content = (manifest.model_dump_json(indent=1) + "\n").encode()
    return commit_content(index_dir, manifest.version, content)


def commit_content(index_dir: Path, version: int, content: bytes) -> Current:
    """`commit_version` for a manifest whose bytes are given: a copy keeps its SHA-256."""
    folder = _version_dir(index_dir, version)
    current = Current(version, hashlib.sha256(content).hexdigest())
    with guard_storage(folder):
        if folder.exists():
            raise IndexFormatError(f"{folder}: version {version} exists already")
        partial = folder.with_name(f".{folder.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        write_durably(partial / MANIFEST_FILE, content)
        write_durably(partial / CHECKSUM_FILE, f"{current.manifest_sha256}\n".encode())
        partial.rename(folder)
        fsync_dir(folder.parent)
        fsync_dir(index_dir)
        write_durably(index_dir / CURRENT_FILE, current_line(current))
    return current


def check_file(index_dir: Path, entry: FileEntry) -> Path:
    """The path of `entry`'s file, once its place, size and SHA-256 hold; else IndexFormatError."""
    path = index_dir / entry.path
    try:
        if not path.resolve().is_relative_to(index_dir.resolve()):
            raise IndexFormatError(f"{path}: leads out of the index folder")
        n_bytes = path.stat().st_size
        if n_bytes != entry.n_bytes:
            raise IndexFormatError(f"{path}: {n_bytes} bytes, the manifest says {entry.n_bytes}")
        if sha256_of(path) != entry.sha256:
            raise IndexFormatError(f"{path}: SHA-256 differs from the manifest's; it was altered")
    except FileNotFoundError:
        raise IndexFormatError(f"{path}: missing, though the manifest lists it") from None
    except OSError as error:
        raise IndexFormatError(f"{path}: can't be read: {error.strerror}") from error
    return path


def _version_dir(index_dir: Path, version: int) -> Path:
    return index_dir / VERSIONS_DIR / f"{version:06d}"


def _read_checksum(index_dir: Path, version: int) -> str:
    path = _version_dir(index_dir, version) / CHECKSUM_FILE
    try:
        return path.read_bytes().decode("ascii", "replace").strip()
    except OSError as error:
        raise IndexFormatError(
            f"{path}: can't be read: {error.strerror}; versions here: {list_versions(index_dir)}"
        ) from error
