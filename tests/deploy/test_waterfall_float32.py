"""Float32 vectors that the waterfall has encoded again: kept, gone on with, and nobody else's."""

import errno

import numpy as np
import pytest

from deploy.evaluation import float32
from shard_server.building.progress import silent
from shoal.errors import ConfigError, StorageError
from shoal.evaluation.rankings import Found


class Counting:
    """Encodes a passage as its number; cuts those above `limit`; may fail at the nth chunk."""

    dim = 2

    def __init__(self, scale: float, limit: int, fails_at: int = -1) -> None:
        self.scale, self.limit, self.fails_at, self.n_texts = scale, limit, fails_at, 0

    def encode(self, titles, texts):
        self.fails_at -= 1
        if self.fails_at == 0:
            raise KeyboardInterrupt
        self.n_texts += len(texts)
        return np.array([[int(text), self.scale] for text in texts], dtype=np.float32)

    def cuts(self, titles, texts):
        return np.array([int(text) >= self.limit for text in texts])


def test_float32_vectors_are_kept_and_go_on(tmp_path, monkeypatch):
    """An interrupted encoding repeats one chunk at most; what was not cut is encoded once."""
    monkeypatch.setattr(float32, "_CHUNK", 10)
    passages = [Found(f"p{n}", 0.0, "", str(n)) for n in range(35)]
    float32.prepare(tmp_path / "f", "this")
    with pytest.raises(KeyboardInterrupt):
        float32.encode_again(
            tmp_path / "f", passages, Counting(1, 30, fails_at=3), Counting(2, 99), silent
        )
    again, whole = Counting(1, 30), Counting(2, 99)
    vectors = float32.encode_again(tmp_path / "f", passages, again, whole, silent)
    assert (again.n_texts, whole.n_texts) == (15, 5)
    assert vectors.whole_rows.tolist() == [30, 31, 32, 33, 34]
    assert vectors.cut[:, 0].tolist() == list(range(35))
    assert vectors.of_whole_texts()[:, 1].tolist() == [1.0] * 30 + [2.0] * 5
    idle = Counting(1, 30)
    float32.encode_again(tmp_path / "f", passages, idle, idle, silent)
    assert idle.n_texts == 0
    with pytest.raises(ConfigError, match="another index or model"):
        float32.prepare(tmp_path / "f", "that")
    (tmp_path / "f" / "about.json").write_text("of something else altogether")
    with pytest.raises(ConfigError, match="another index or model"):
        float32.prepare(tmp_path / "f", "this")


def test_a_full_disk_is_told_before_anything_is_encoded(tmp_path, monkeypatch):
    """A write through a map that finds no room ends the process, so the room is taken first."""

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(float32.os, "posix_fallocate", full)
    float32.prepare(tmp_path / "f", "this")
    encoder = Counting(1, 30)
    with pytest.raises(StorageError, match="free some space"):
        float32.encode_again(tmp_path / "f", [Found("p", 0.0, "", "1")], encoder, encoder, silent)
    assert encoder.n_texts == 0
