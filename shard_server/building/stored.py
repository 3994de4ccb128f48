"""An index as a source: its passages and its stored vectors, in the order of ingestion.

Rule: what is read was checked by hash; nothing is encoded, and vectors keep every bit. Memory holds
a chunk and 16 bytes a passage.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from shard_server.building.bring import GivenVectors
from shard_server.building.passage import Passage
from shard_server.building.vectors import read_stored
from shoal.errors import IndexFormatError
from shoal.formats.manifest import Manifest
from shoal.formats.passages import TEXT_COLUMNS, MetadataValue, PassageFile
from shoal.formats.versions import check_file, load_manifest, read_current

_CHUNK_ROWS = 8_192
_Order = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StoredIndex:
    """A version's segments, opened. `order` is each passage's place in the segments laid end to
    end, by ordinal; `starts` is where each segment begins, and after the last one the end.
    """

    index_dir: Path
    manifest: Manifest
    manifest_sha256: str
    passage_files: tuple[PassageFile, ...]
    vectors: tuple[npt.NDArray[np.float16], ...]
    starts: _Order
    order: _Order

    @classmethod
    def open(cls, index_dir: Path) -> "StoredIndex":
        """Check and map the live version's passages and vectors.

        Raises:
            IndexFormatError: naming the file that is missing or altered.
        """
        current = read_current(index_dir)
        manifest = load_manifest(index_dir)
        passage_files, vectors = [], []
        for segment in (segment for shard in manifest.shards for segment in shard.segments):
            if segment.files.deleted is not None:
                raise IndexFormatError(
                    f"{index_dir}: has deleted passages, which --from does not read yet; build it "
                    "from its corpus"
                )
            passage_files.append(PassageFile.open(check_file(index_dir, segment.files.passages)))
            stored = check_file(index_dir, segment.files.vectors)
            vectors.append(read_stored(stored, manifest.dim))
        ordinals = [file.ordinals for file in passage_files] or [np.empty(0, dtype=np.int64)]
        return cls(
            index_dir=index_dir,
            manifest=manifest,
            manifest_sha256=current.manifest_sha256,
            passage_files=tuple(passage_files),
            vectors=tuple(vectors),
            starts=np.cumsum([0, *(file.n_rows for file in passage_files)], dtype=np.int64),
            order=np.argsort(np.concatenate(ordinals), kind="stable"),
        )

    def passages(self) -> Iterator[Passage]:
        """Every passage, as it was ingested."""
        for places in self._chunks():
            found: dict[int, Passage] = {}
            for number, at, rows in self._by_segment(places):
                texts = _texts(self.passage_files[number], rows)
                for place, row, (passage_id, title, text), metadata in texts:
                    found[int(at[place])] = Passage(
                        id=passage_id,
                        title=title,
                        text=text,
                        metadata=metadata,
                        where=f"{self.passage_files[number].path}:{row}",
                    )
            yield from (found[place] for place in range(len(places)))

    def encode(self) -> GivenVectors:
        """The stored vectors, in the order of `passages`, under the index's own contract."""
        return GivenVectors(
            self.vector_chunks(),
            self.manifest.dim,
            where=str(self.index_dir),
            contract=self.manifest.encoder,
            origin=f"index {self.manifest_sha256}",
        )

    def vector_chunks(self) -> Iterator[npt.NDArray[np.float16]]:
        """The stored vectors, (n, dim) in the order of `passages`."""
        for places in self._chunks():
            chunk = np.empty((len(places), self.manifest.dim), dtype=np.float16)
            for number, at, rows in self._by_segment(places):
                chunk[at] = self.vectors[number][rows]
            yield chunk

    def _chunks(self) -> Iterator[_Order]:
        for start in range(0, len(self.order), _CHUNK_ROWS):
            yield self.order[start : start + _CHUNK_ROWS]

    def _by_segment(self, places: _Order) -> Iterator[tuple[int, _Order, _Order]]:
        """Segment, positions within `places`, and rows of the segment."""
        segments = np.searchsorted(self.starts, places, side="right") - 1
        for number in np.unique(segments).tolist():
            at = np.flatnonzero(segments == number)
            yield number, at, places[at] - self.starts[number]


def _texts(
    file: PassageFile, rows: _Order
) -> Iterator[tuple[int, int, list[str], dict[str, MetadataValue]]]:
    """Place in `rows`, row, id, title and text, and metadata."""
    columns = file.take(rows, TEXT_COLUMNS)
    offsets: dict[str, Any] = {name: column.offsets.tolist() for name, column in columns.items()}
    for place, (row, metadata) in enumerate(zip(rows.tolist(), file.metadata(rows), strict=True)):
        texts = [
            columns[name].data[offsets[name][place] : offsets[name][place + 1]].decode()
            for name in TEXT_COLUMNS
        ]
        yield place, row, texts, metadata
