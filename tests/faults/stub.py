"""What the fault tests' index holds, and the encoder it was built by: a text decides its vector.

Rule: the same function makes the passages' vectors, the served encoder's and the oracle's.
"""

import hashlib
from collections.abc import Iterator, Sequence

import numpy as np

from shard_server.building import Passage
from shoal.contract import EncoderContract, TowerContract

DIM = 64
N_SHARDS = 4
N_PASSAGES = 20_000
NAME = "mini"
RECIPE = "IVF32,PQ8"
FINGERPRINT = "5" * 64


def vector_of(text: str, dim: int = DIM) -> np.ndarray:
    """A unit vector that the text alone decides, float32 (dim,)."""
    seed = hashlib.blake2b(text.encode(), digest_size=8).digest()
    drawn = np.random.default_rng(int.from_bytes(seed, "little")).standard_normal(dim)
    return (drawn / np.linalg.norm(drawn)).astype(np.float32)


class StubEncode:
    """The offline side: passages to vectors."""

    dim = DIM
    contract = EncoderContract(
        model="stub",
        question=TowerContract(
            fingerprint=FINGERPRINT, dim=DIM, max_tokens=128, pooling="mean", normalized=True
        ),
        passage=TowerContract(
            fingerprint=FINGERPRINT, dim=DIM, max_tokens=128, pooling="mean", normalized=True
        ),
    )

    def __call__(self, titles: Sequence[str], texts: Sequence[str]) -> np.ndarray:
        return np.stack([vector_of(text) for text in texts])


def passages(first: int, n_passages: int) -> Iterator[Passage]:
    """Passages with the ordinals from `first` on; passage i has the id "p<i>"."""
    for i in range(first, first + n_passages):
        yield Passage(id=f"p{i}", title=f"title {i}", text=f"passage {i}", where=f"made-up:{i}")
