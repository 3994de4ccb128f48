"""Encode the staged corpus, chunk by chunk, into a file that a killed build takes up again.

Rule: a chunk counts once its checksum stands, and whatever follows the last such chunk is cut off
and encoded again: one chunk at most. The vectors of another corpus or encoder are never taken up.
"""

import hashlib
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from shard_server.building.bring import GivenVectors
from shard_server.building.stage import PassageEncode, StagedCorpus
from shard_server.building.staging import SUMS_FILE, Staging
from shoal.errors import ConfigError

_FLOAT16_MAX = float(np.finfo(np.float16).max)
_VECTORS_FILE = "vectors.f16"
_SUM_BYTES = 8


class ChunkFile:
    """Float16 rows of `dim` in `folder`, and 8 bytes of BLAKE2b for each chunk of them.

    The sum is written after its chunk, so a chunk without one was cut short; a chunk that differs
    from its sum was lost by the disk, in a power cut say.
    """

    def __init__(self, folder: Path, dim: int) -> None:
        self.path = folder / _VECTORS_FILE
        self._row_bytes = 2 * dim
        self._rows = self.path.open("a+b", buffering=0)
        self._sums = (folder / SUMS_FILE).open("a+b", buffering=0)

    def take_up(self, chunk_rows: Iterable[int]) -> int:
        """Rows of the first chunks, of so many rows each, that are whole; the rest is cut off."""
        self._rows.seek(0)
        self._sums.seek(0)
        n_chunks = n_kept = 0
        for n_rows in chunk_rows:
            rows = self._rows.read(n_rows * self._row_bytes)
            wanted = self._sums.read(_SUM_BYTES)
            if len(rows) < n_rows * self._row_bytes or _sum_of(rows) != wanted:
                break
            n_chunks += 1
            n_kept += n_rows
        self._rows.truncate(n_kept * self._row_bytes)
        self._sums.truncate(n_chunks * _SUM_BYTES)
        return n_kept

    def append(self, rows: npt.NDArray[np.float16]) -> None:
        """Add a chunk: float16 (n, dim)."""
        content = rows.astype("<f2", copy=False).tobytes()
        _write_all(self._rows, content)
        _write_all(self._sums, _sum_of(content))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._rows.close()
        self._sums.close()


def encode_corpus(
    staged: StagedCorpus, staging: Staging, encode: PassageEncode, *, chunk_size: int
) -> Path:
    """Encode what is not encoded yet; returns the file of raw float16 rows in ingestion order.

    Raises:
        ConfigError: the encoder answered with the wrong shape or with values out of range.
    """
    folder = _folder(staged, staging, encode, chunk_size)
    with ChunkFile(folder, encode.dim) as file:
        n_done = file.take_up(part.num_rows for part in _chunks(staged, chunk_size))
        if n_done:
            staging.progress("kept encode", n_done, n_done)
            if isinstance(encode, GivenVectors):
                encode.skip(n_done)
        staging.progress("encode", n_done, staged.n_passages)
        for part in _chunks(staged, chunk_size, after=n_done):
            titles, texts = part.column("title").to_pylist(), part.column("text").to_pylist()
            vectors = np.asarray(encode(titles, texts))
            _check_vectors(vectors, n_rows=part.num_rows, dim=encode.dim)
            file.append(vectors.astype("<f2"))
            n_done += part.num_rows
            staging.progress("encode", n_done, staged.n_passages)
    return file.path


def open_vectors(path: Path, dim: int) -> npt.NDArray[np.float16]:
    """The vectors that `encode_corpus` wrote, mapped: float16 (n, dim)."""
    return np.memmap(path, dtype="<f2", mode="r").reshape(-1, dim)


def inputs_of(staged: StagedCorpus, encode: PassageEncode, chunk_size: int) -> dict[str, Any]:
    """All that the vectors depend on; `origin` is empty where that can't be told."""
    origin = ""
    if isinstance(encode, GivenVectors):
        origin = encode.origin
    elif encode.contract is not None:
        origin = f"encoder {encode.contract.passage.fingerprint}"
    return {
        "texts": staged.text_digest,
        "n_passages": staged.n_passages,
        "origin": origin,
        "dim": encode.dim,
        "chunk_size": chunk_size,
    }


def kept_bytes(
    staged: StagedCorpus, staging: Staging, encode: PassageEncode, chunk_size: int
) -> int:
    """Bytes in `staging` that this build need not write again.

    Its own vectors, and with them what was made of them; another recipe or number of shards leaves
    some of that unused. Where there are none, nothing there fits this corpus and encoder.
    """
    inputs = inputs_of(staged, encode, chunk_size)
    own = staging.stream_folder(_stage(encode), inputs)
    if not inputs["origin"] or not own.exists():
        return 0
    return staging.n_bytes(but={staged.path, *staging.streams()} - {own})


def vectors_from(
    path: Path, staged: StagedCorpus, encode: PassageEncode, chunk_size: int
) -> dict[str, Any]:
    """What the vectors at `path` are, for the stages that use them.

    As `inputs_of`; where no origin can be told, the chunks' sums are it: a stage that was made of
    another nameless encoder's vectors, and outlived a kill, must not be taken for this one's.
    """
    inputs = inputs_of(staged, encode, chunk_size)
    if not inputs["origin"]:
        sums = (path.parent / SUMS_FILE).read_bytes()
        inputs["origin"] = f"sums {hashlib.sha256(sums).hexdigest()}"
    return inputs


def _folder(staged: StagedCorpus, staging: Staging, encode: PassageEncode, chunk_size: int) -> Path:
    inputs = inputs_of(staged, encode, chunk_size)
    if inputs["origin"]:
        return staging.stream(_stage(encode), inputs)
    # an encoder that doesn't say who it is may be another one next time
    folder = staging.folder / "once"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return folder


def _stage(encode: PassageEncode) -> str:
    return "copy" if isinstance(encode, GivenVectors) else "encode"


def _chunks(staged: StagedCorpus, chunk_size: int, *, after: int = 0) -> Iterator[pa.RecordBatch]:
    """The corpus in chunks that no batch's end lies within, without the first `after` rows."""
    end = 0
    for batch in staged.batches():
        for start in range(0, batch.num_rows, chunk_size):
            part = batch.slice(start, chunk_size)
            end += part.num_rows
            if end > after:
                yield part


def _check_vectors(vectors: npt.NDArray[np.float32], *, n_rows: int, dim: int) -> None:
    if vectors.shape != (n_rows, dim):
        raise ConfigError(f"the encoder answered {vectors.shape} for {n_rows} passages of {dim}")
    # NaN fails this comparison too.
    if not (np.abs(vectors) <= _FLOAT16_MAX).all():
        raise ConfigError(
            "the encoder answered with NaN, infinity or a value beyond float16 "
            f"({_FLOAT16_MAX:,.0f}); these vectors were not kept"
        )


def _sum_of(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=_SUM_BYTES).digest()


def _write_all(file: Any, content: bytes) -> None:
    """An unbuffered file may take a part at a time."""
    rest = memoryview(content)
    while rest:
        rest = rest[file.write(rest) :]
