"""Encoders whose vectors a test knows, and a small index that is made with one.

An index of theirs has no encoder to ask with text, and its exact answers can be read off.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

DIM = 8


class Axes:
    """The vector of the passage whose text ends with i is axis i."""

    contract = None
    dim = DIM

    def __call__(self, titles: Sequence[str], texts: Sequence[str]) -> np.ndarray:
        return np.eye(DIM, dtype=np.float32)[[int(text.split()[-1]) for text in texts]]


class Rows:
    """The vector of the passage whose text is i is row i."""

    contract = None

    def __init__(self, rows: np.ndarray) -> None:
        self.dim = rows.shape[1]
        self._rows = rows

    def __call__(self, titles: Sequence[str], texts: Sequence[str]) -> np.ndarray:
        return self._rows[[int(text) for text in texts]]


def build_axes(index_dir: Path, name: str = "tiny") -> Path:
    """An index of eight passages in two shards, one on each axis; its folder."""
    from shard_server.building import BuildOptions, Passage, build_index

    passages = [
        Passage(id=f"p{i}", title="", text=f"passage {i}", where="made-up") for i in range(DIM)
    ]
    build_index(index_dir, passages, Axes(), BuildOptions(name=name, n_shards=2))
    return index_dir
