"""Encode chunks of the staged corpus: what a build does wherever its encoders run.

Rule: a chunk's vectors are checked, and rounded to float16, where they were made; whoever keeps
the encoder's own float32 rounds them later.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from shard_server.building.chunk_file import AnyRows, Chunk
from shard_server.building.stage import PassageEncode
from shoal.errors import ConfigError

_FLOAT16_MAX = float(np.finfo(np.float16).max)


def encode_chunks(
    corpus: Path, chunks: Iterable[Chunk], encode: PassageEncode, *, keep_float32: bool = False
) -> Iterator[tuple[Chunk, AnyRows]]:
    """Each of `chunks` of the staged corpus at `corpus`, with its vectors: float16 (n_rows, dim),
    or float32 with `keep_float32`.

    Raises:
        ConfigError: the encoder answered with the wrong shape or with values out of range.
    """
    with pa.memory_map(str(corpus)) as source:
        reader = pa.ipc.open_file(source)
        for chunk in chunks:
            part = reader.get_batch(chunk.batch).slice(chunk.offset, chunk.n_rows)
            titles, texts = part.column("title").to_pylist(), part.column("text").to_pylist()
            vectors = np.asarray(encode(titles, texts))
            _check_vectors(vectors, n_rows=chunk.n_rows, dim=encode.dim)
            yield chunk, vectors.astype("<f4" if keep_float32 else "<f2", copy=False)


def _check_vectors(vectors: npt.NDArray[np.float32], *, n_rows: int, dim: int) -> None:
    if vectors.shape != (n_rows, dim):
        raise ConfigError(f"the encoder answered {vectors.shape} for {n_rows} passages of {dim}")
    # NaN fails this comparison too.
    if not (np.abs(vectors) <= _FLOAT16_MAX).all():
        raise ConfigError(
            "the encoder answered with NaN, infinity or a value beyond float16 "
            f"({_FLOAT16_MAX:,.0f}); these vectors were not kept"
        )
