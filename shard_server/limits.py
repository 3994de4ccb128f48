"""What a search may ask of a shard: one place for every device.

The bounds are those of the narrowest backend (faiss on a GPU takes k and n_probe up to 2,048), so
that no search works on one machine and fails on another. Pure; knows neither faiss nor protobuf.
"""

from dataclasses import dataclass

import numpy as np

from shoal.errors import InvalidArgumentError
from shoal.vectors import Matrix

MAX_QUERIES = 1_024
MAX_K = 1_000
MAX_N_PROBE = 2_048
MAX_CANDIDATES = 2_048
MAX_PLACES = 65_536
"""Passages a GetPassages call."""

MAX_FETCH = 2_048
"""Hits asked of faiss in one search, ties over the edge included: the GPU's limit on k."""

MAX_TABLE_BYTES = 2 << 30
"""faiss's own bound for the tables that it precomputes on reading an IVF-PQ index."""

GPU_CODE_SIZES = (1, 2, 3, 4, 8, 12, 16, 20, 24, 28, 32, 40, 48, 56, 64, 96)
"""Bytes a vector that faiss's GPU IVF-PQ takes."""

GPU_FLOAT16_TABLE_CODE_SIZES = frozenset({56, 64, 96})
"""Of those, the ones whose lookup tables fit a GPU's shared memory in float16 only."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchParameters:
    """How to search; the router's decisions, unchanged.

    `candidates` 0 turns rescoring off; `exact` ignores `n_probe` and `candidates`.
    """

    k: int
    n_probe: int = 0
    candidates: int = 0
    exact: bool = False


def check_search(
    parameters: SearchParameters, query_vectors: Matrix, *, dim: int, n_lists: int
) -> None:
    """Refuse a search that breaks a limit.

    Args:
        parameters: how to search.
        query_vectors: float32 (n_queries, dim).
        dim: the index's dimension.
        n_lists: the index's inverted lists; 0 without.

    Raises:
        InvalidArgumentError: naming the request's field.
    """
    n_queries, given_dim = query_vectors.shape
    _within("query_vectors", n_queries, 1, MAX_QUERIES)
    if given_dim != dim:
        raise InvalidArgumentError(
            f"query_vectors has {given_dim} dimensions, the index has {dim}", field="query_vectors"
        )
    if not np.isfinite(query_vectors).all():
        raise InvalidArgumentError("query_vectors must be finite", field="query_vectors")
    _within("k", parameters.k, 1, MAX_K)
    if parameters.exact:
        return
    _within("n_probe", parameters.n_probe, 1 if n_lists else 0, MAX_N_PROBE)
    _within("candidates", parameters.candidates, 0, MAX_CANDIDATES)


def _within(field: str, value: int, least: int, most: int) -> None:
    if not least <= value <= most:
        raise InvalidArgumentError(
            f"{field} is {value}; it must be {least} to {most}",
            field=field,
        )
