"""A small corpus whose scores are whole numbers, and its exact search: the oracle.

Vectors hold small integers, so that inner products are exact in float32 whatever the order of
addition, and ties are many: an answer equals the oracle's in scores and ordinals, or it is wrong.
"""

import hashlib
from dataclasses import dataclass
from functools import cached_property

import numpy as np

DIM = 8


def vector_of(text: str, dim: int = DIM) -> np.ndarray:
    """The stub encoder: whole numbers from -4 to 4 that the text alone decides."""
    digest = hashlib.shake_128(text.encode()).digest(dim)
    return np.frombuffer(digest, dtype=np.uint8).astype(np.float32) % 9 - 4


@dataclass(frozen=True)
class Hits:
    """A query's best: ordinals and scores, best first."""

    ordinals: list[int]
    scores: list[float]


class Corpus:
    """Passages with vectors; `shard_of[i]` is the shard of the passage with ordinal i."""

    def __init__(self, n_passages: int = 300, n_shards: int = 2, dim: int = DIM) -> None:
        rng = np.random.default_rng(5)
        self.dim = dim
        self.n_shards = n_shards
        self.vectors = rng.integers(-4, 5, (n_passages, dim)).astype(np.float32)
        self.ids = [f"p{i}" for i in range(n_passages)]
        self.titles = [f"title {i}" for i in range(n_passages)]
        self.texts = [f"text of passage {i}, mit Umlauten: äöü" for i in range(n_passages)]
        self.shard_of = rng.integers(0, n_shards, n_passages)

    @cached_property
    def ordinals_by_shard(self) -> list[np.ndarray]:
        return [np.flatnonzero(self.shard_of == shard) for shard in range(self.n_shards)]

    @property
    def n_live_by_shard(self) -> list[int]:
        return [len(ordinals) for ordinals in self.ordinals_by_shard]

    def coverage(self, *shards: int) -> float:
        """The share of passages that these shards hold."""
        return sum(self.n_live_by_shard[shard] for shard in shards) / len(self.ids)

    def search(
        self, query_vector: np.ndarray, k: int, *, shards: list[int] | None = None, offset: int = 0
    ) -> Hits:
        """Exact search by numpy over all shards or some, by score and then by ordinal."""
        wanted = range(self.n_shards) if shards is None else shards
        mine = np.sort(np.concatenate([self.ordinals_by_shard[s] for s in wanted]))
        scores = self.vectors[mine] @ query_vector
        order = np.argsort(-scores, kind="stable")[offset : offset + k]
        return Hits(mine[order].tolist(), scores[order].tolist())
