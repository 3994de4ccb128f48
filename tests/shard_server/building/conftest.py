"""A deterministic encoder and a small corpus, for builds that need no model."""

import functools
import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from shard_server.building import BuildOptions, Passage, build_index
from shoal.contract import EncoderContract, TowerContract
from shoal.formats.manifest import Manifest


class HashEncode:
    """Each text's unit vector is drawn from a generator seeded by the text's hash."""

    def __init__(self, dim: int) -> None:
        self.dim = dim
        self.n_texts = 0
        tower = TowerContract(
            fingerprint="f", dim=dim, max_tokens=256, pooling="mean", normalized=True
        )
        self.contract: EncoderContract | None = EncoderContract(
            model="hash", question=tower, passage=tower
        )

    def __call__(self, titles: Sequence[str], texts: Sequence[str]) -> np.ndarray:
        self.n_texts += len(texts)
        return np.stack([self.vector(f"{t}\n{x}") for t, x in zip(titles, texts, strict=True)])

    def vector(self, text: str) -> np.ndarray:
        return drawn_vector(text, self.dim)


@functools.cache  # many tests build from the same 3,000 texts
def drawn_vector(text: str, dim: int) -> np.ndarray:
    seed = hashlib.blake2b(text.encode(), digest_size=8).digest()
    rng = np.random.default_rng(int.from_bytes(seed, "little"))
    drawn = rng.standard_normal(dim, dtype=np.float32)
    drawn /= np.linalg.norm(drawn)
    drawn.flags.writeable = False
    return drawn


def synthetic_passages(n_passages: int) -> Iterator[Passage]:
    for number in range(n_passages):
        yield Passage(
            id=f"p{number}",
            title=f"title {number % 7}",
            text=f"text of passage {number}",
            metadata={"number": number, "odd": bool(number % 2)} if number % 3 else {},
            where=f"made-up:{number + 1}",
        )


@pytest.fixture(scope="session")
def make_passages() -> Callable[[int], Iterator[Passage]]:
    return synthetic_passages


@pytest.fixture
def encode() -> HashEncode:
    return HashEncode(32)


class Built(NamedTuple):
    """A finished build of 3,000 synthetic passages."""

    index_dir: Path
    manifest: Manifest
    vectors: np.ndarray
    """float32 (3000, 32), rounded to float16, in ingestion order."""


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Built]:
    """Builds (recipe, shards, metric) once a session."""
    folder = tmp_path_factory.mktemp("built")
    encode = HashEncode(32)
    passages = list(synthetic_passages(3_000))
    vectors = encode([p.title for p in passages], [p.text for p in passages])

    @functools.cache
    def build(recipe: str, n_shards: int, metric: str) -> Built:
        index_dir = folder / f"{recipe}-{n_shards}-{metric}"
        options = BuildOptions(name="tiny", recipe=recipe, n_shards=n_shards, metric=metric, seed=5)
        manifest = build_index(index_dir, passages, encode, options)
        return Built(index_dir, manifest, vectors.astype(np.float16).astype(np.float32))

    return lambda recipe, n_shards, metric="inner_product": build(recipe, n_shards, metric)
