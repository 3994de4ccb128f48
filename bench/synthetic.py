"""Clustered vectors of any number, written a chunk at a time."""

from pathlib import Path

import numpy as np
import numpy.typing as npt

from shoal.vectors import Matrix

_CHUNK_ROWS = 50_000
_ROWS_A_CLUSTER = 250
_NOISE = 1.0


def write_clustered(
    path: Path, *, n_rows: int, dim: int, seed: int = 0, dtype: npt.DTypeLike = np.float16
) -> Path:
    """A .npy of unit vectors (n_rows, dim), around one random centre for every 250 of them.

    Made if need be; the path names it only when it is whole.
    """
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    rng = np.random.default_rng(seed)
    centers = _centers(n_rows, dim, seed)
    rows = np.lib.format.open_memmap(partial, mode="w+", dtype=dtype, shape=(n_rows, dim))
    for start in range(0, n_rows, _CHUNK_ROWS):
        n = min(_CHUNK_ROWS, n_rows - start)
        rows[start : start + n] = _around(centers, n, rng)
    rows.flush()
    partial.rename(path)
    return path


def clustered_queries(*, n_queries: int, n_rows: int, dim: int, seed: int = 0) -> Matrix:
    """Unit vectors, float32 (n_queries, dim), around the centres of `write_clustered`'s rows."""
    return _around(_centers(n_rows, dim, seed), n_queries, np.random.default_rng(seed + 1))


def _centers(n_rows: int, dim: int, seed: int) -> npt.NDArray[np.float32]:
    rng = np.random.default_rng(seed)
    return rng.standard_normal((max(1, n_rows // _ROWS_A_CLUSTER), dim), dtype=np.float32)


def _around(centers: Matrix, n: int, rng: np.random.Generator) -> Matrix:
    noise = rng.standard_normal((n, centers.shape[1]), dtype=np.float32)
    rows = centers[rng.integers(0, len(centers), n)] + np.float32(_NOISE) * noise
    normed: Matrix = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return normed
