"""Indexes with a transform in front (OPQ, PCA): taken apart, filled and asked alike in any batch.

Rule: a vector gets the same code, and a query the same scores, whatever travels with it. BLAS's
float32 products differ by an ulp with the shape of the batch and the row's place in it, which would
give shards other codes than the one big index; products in float64, rounded, don't.
"""

from dataclasses import dataclass
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt

Matrix = npt.NDArray[np.float32]

_BLOCK_ROWS = 16_384


@dataclass(frozen=True, slots=True, eq=False)
class Rotation:
    """A trained linear transform: float64 `matrix` (dim, code_dim) and `bias` (code_dim,)."""

    matrix: npt.NDArray[np.float64]
    bias: npt.NDArray[np.float64]

    @classmethod
    def of(cls, transform: Any) -> "Rotation":
        """What faiss's LinearTransform does to a vector."""
        matrix = faiss.vector_to_array(transform.A).reshape(transform.d_out, transform.d_in)
        bias = faiss.vector_to_array(transform.b) if transform.have_bias else np.zeros(len(matrix))
        return cls(np.ascontiguousarray(matrix.T, dtype=np.float64), bias.astype(np.float64))

    def turn(self, rows: Matrix) -> Matrix:
        """float32 (n, dim) to float32 (n, code_dim)."""
        turned = np.empty((len(rows), self.matrix.shape[1]), dtype=np.float32)
        # in blocks, so that a training sample is never held in float64
        for start in range(0, len(rows), _BLOCK_ROWS):
            block = rows[start : start + _BLOCK_ROWS].astype(np.float64) @ self.matrix
            turned[start : start + _BLOCK_ROWS] = block + self.bias
        return turned


def take_apart(index: Any) -> tuple[Any, Any]:
    """The linear transform in front, None without one, and the index that holds the codes.

    Both live in `index`, and as long as it does.
    """
    if not isinstance(index, faiss.IndexPreTransform):
        return None, index
    chain: Any = index.chain
    if chain.size() != 1:
        raise ValueError(f"{chain.size()} transforms stand in front; recipes have one at most")
    transform: Any = chain.at(0)
    return faiss.downcast_VectorTransform(transform), faiss.downcast_index(index.index)


def add_rows(index: Any, rows: Matrix) -> None:
    """Add float32 rows (n, dim) to a trained index."""
    transform, core = take_apart(index)
    core.add(rows if transform is None else Rotation.of(transform).turn(rows))
    index.ntotal = core.ntotal
