"""A tiny index of given vectors, built by the real builder in a moment, and its stub encoder."""

from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from fakes.corpus import DIM, vector_of

from encoder_service.batching import BatchCost
from encoder_service.roles import Role
from shard_server.building import BuildOptions, Passage
from shoal.contract import EncoderContract, TowerContract
from shoal.formats.deleted import read_deleted
from shoal.formats.manifest import Manifest
from shoal.formats.passages import PassageFile, TextColumn

NAME = "tiny"
_TOWER = TowerContract(
    fingerprint="7" * 64, dim=DIM, max_tokens=64, pooling="mean", normalized=False
)
CONTRACT = EncoderContract(model="stub", question=_TOWER, passage=_TOWER)


class GivenVectors:
    """The builder's side: the text decides its vector."""

    dim = DIM
    contract = None

    def __call__(self, titles: Sequence[str], texts: Sequence[str]) -> np.ndarray:
        return np.stack([vector_of(text) for text in texts])


def options(recipe: str, **changes: object) -> BuildOptions:
    """How the tiny index is built."""
    return BuildOptions(**{"name": NAME, "recipe": recipe, "n_shards": 2, **changes})


def passages(numbers: Iterable[int], edition: int = 0) -> list[Passage]:
    """Passage i has the id "p<i>"; another edition has another text, and so another vector."""
    return [
        Passage(id=f"p{i}", title=f"title {i}", text=text(i, edition),
                metadata={"page": i}, where=f"made-up:{i}")
        for i in numbers
    ]  # fmt: skip


def text(number: int, edition: int) -> str:
    """What passage `number` says in an edition."""
    return f"text {number} edition {edition}"


def texts_of(index_dir: Path, manifest: Manifest) -> dict[str, str]:
    """Texts by id of the passages that a search of this version can find."""
    found: list[tuple[str, str]] = []
    for segment in (segment for shard in manifest.shards for segment in shard.segments):
        rows = np.arange(segment.n_rows, dtype=np.uint32)
        if segment.files.deleted is not None:
            bitmap = index_dir / segment.files.deleted.path
            rows = rows[~read_deleted(bitmap, n_rows=segment.n_rows, n_live=segment.n_live)]
        columns = PassageFile.open(index_dir / segment.files.passages.path).take(
            rows, ["id", "text"]
        )
        found += zip(_split(columns["id"]), _split(columns["text"]), strict=True)
    by_id = dict(found)
    assert len(by_id) == len(found), "an id is live twice"
    return by_id


def _split(column: TextColumn) -> list[str]:
    data = bytes(column.data)
    return [data[a:b].decode() for a, b in pairwise(column.offsets.tolist())]


class StubModel:
    """What the encoder service asks of a model, without torch."""

    name, device, backend, dtype = "stub", "cpu", "stub", "float32"
    n_streams = 1
    cost = stream_cost = BatchCost(max_tokens=1_024, pass_tokens=32)
    contract = CONTRACT

    def shares_network(self) -> bool:
        return True

    def tower(self, role: Role) -> TowerContract:
        return _TOWER

    def tokenize(self, texts, role, titles=None):
        """One token a word, at most 64."""
        titles = titles or [""] * len(texts)
        return [
            SimpleNamespace(
                text=f"{title} {text}", truncated=len(text.split()) > 62,
                n_tokens=min(64, 2 + len(text.split()))
            )
            for title, text in zip(titles, texts, strict=True)
        ]  # fmt: skip

    def forward(self, tokenized, role, *, one_core=False) -> np.ndarray:
        return np.stack([vector_of(text.text) for text in tokenized])
