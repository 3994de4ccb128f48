"""The manifest's models: what one version of an index is made of.

Rule: values that check themselves; a field that isn't known is refused. Must not know where a
manifest lies, nor how it is read and committed (`shoal.formats.versions`).
"""

import math
import re
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from shoal.contract import EncoderContract
from shoal.index_name import INDEX_NAME

MetadataType = Literal["string", "int64", "double", "bool", "string_list"]
Metric = Literal["inner_product", "l2"]
Device = Literal["cpu", "cuda"]
CalibrationQueries = Literal["file", "passages", "vectors"]
Count = Annotated[int, Field(ge=0, le=(1 << 63) - 1)]
"""What faiss, Arrow and the wire can count."""
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]

_FILE_PATH = re.compile(r"^data/([0-9a-f]{64})/[A-Za-z0-9_][A-Za-z0-9._-]{0,127}\Z")


def _is_moment(text: str) -> str:
    datetime.fromisoformat(text)  # its ValueError is pydantic's to tell
    return text


Moment = Annotated[str, AfterValidator(_is_moment)]
"""A date and time in ISO 8601."""


class _Value(BaseModel):
    """A frozen value that refuses fields it doesn't know."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


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

    def entries(self) -> tuple[FileEntry, ...]:
        """Those that are there, in a fixed order."""
        listed = (self.index, self.vectors, self.passages, self.ids, self.deleted)
        return tuple(entry for entry in listed if entry is not None)


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

    def entries(self) -> tuple[FileEntry, ...]:
        """What serving the shard reads, in a fixed order."""
        return tuple(entry for segment in self.segments for entry in segment.files.entries())

    @property
    def n_rows(self) -> int:
        """Rows of all segments, deleted ones included."""
        return sum(segment.n_rows for segment in self.segments)

    @property
    def n_live(self) -> int:
        """Passages that a search can find."""
        return sum(segment.n_live for segment in self.segments)


class Float32Files(_Value):
    """What the encoder answered for the passages of one build or addition, before it was rounded.

    .npy of float32 (n, dim), in the order of ingestion: `cut` of the texts as the index cuts them,
    `whole` of those that were cut, read on; `whole_rows`, int64, are their rows in `cut`. Where
    none was cut, the last two are None. No search reads them.
    """

    n_rows: Annotated[Count, Field(ge=1)]
    cut: FileEntry
    whole_rows: FileEntry | None = None
    whole: FileEntry | None = None

    @model_validator(mode="after")
    def _whole_ones_go_together(self) -> "Float32Files":
        if (self.whole is None) != (self.whole_rows is None):
            raise ValueError("whole and whole_rows are given together")
        return self

    def entries(self) -> tuple[FileEntry, ...]:
        """Those that are there, in a fixed order."""
        listed = (self.cut, self.whole_rows, self.whole)
        return tuple(entry for entry in listed if entry is not None)


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
    `operating_points` stand by k, and cheapest first among those of one k. `float32` is of all
    passages, by ordinal, or empty.
    """

    format: Literal[1] = 1
    min_reader: Literal[1] = 1
    name: Annotated[str, Field(pattern=INDEX_NAME)]
    version: Annotated[Count, Field(ge=1)]
    created_at: Moment
    release: str
    n_rows: Count
    n_live: Count
    next_ordinal: Count
    dim: Annotated[int, Field(ge=1, le=65_536)]
    metric: Metric
    vector_dtype: Literal["float16"] = "float16"
    recipe: str
    n_lists: Annotated[int, Field(ge=0, le=(1 << 31) - 1)]
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
    float32: tuple[Float32Files, ...] = ()

    @model_serializer(mode="wrap")
    def _without_what_is_not_used(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """A reader that is older than a field refuses it, so it stands only where it is used."""
        written: dict[str, Any] = handler(self)
        if not self.float32:
            written.pop("float32", None)
        return written

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
        n_float32 = sum(part.n_rows for part in self.float32)
        if self.float32 and n_float32 != self.n_rows:
            raise ValueError(f"float32 holds {n_float32} rows, the index {self.n_rows}")
        return self

    @model_validator(mode="after")
    def _probes_fit(self) -> "Manifest":
        towers = (self.encoder.question, self.encoder.passage) if self.encoder else ()
        for tower in towers:
            wanted = [tower.dim] * len(tower.probe_texts)
            if [len(row) for row in tower.probe_vectors] != wanted:
                raise ValueError(f"probe_vectors are not one of {tower.dim} values a probe text")
            if not all(math.isfinite(value) for row in tower.probe_vectors for value in row):
                raise ValueError("probe_vectors are not all finite")
        return self

    def entries(self) -> tuple[FileEntry, ...]:
        """Every file of this version, shared ones once, in a fixed order."""
        # the trained, empty index is for building
        trained = () if self.trained is None else (self.trained,)
        of_shards = (entry for shard in self.shards for entry in shard.entries())
        unrounded = (entry for part in self.float32 for entry in part.entries())
        return tuple(dict.fromkeys((*trained, *of_shards, *unrounded)))
