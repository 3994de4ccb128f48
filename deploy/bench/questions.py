"""Queries for a load run, drawn from a corpus or from an index's own files.

Rule: a uniform sample by seed, so that no part of the corpus is asked more than another. A sentence
of a passage is an easy question for its own passage: such load is realistic, its recall is not.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice, pairwise
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from deploy.calibration.questions import first_sentence, from_stored
from shard_server.building.read import read_corpus
from shoal.bench.queries import N_TEXTS, N_VECTORS
from shoal.errors import ConfigError, CorpusError
from shoal.formats.manifest import Manifest
from shoal.formats.passages import PassageFile, TextColumn
from shoal.formats.versions import check_file, load_manifest

_PART_ROWS = 8_192


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """Queries: texts, or vectors float32 (n, dim), one of them empty; `source` is for people."""

    source: str
    texts: tuple[str, ...] = ()
    vectors: npt.NDArray[np.float32] | None = None


def draw(
    path: str, n_queries: int | None, seed: int, mode: Literal["text", "vector"] | None
) -> Drawn:
    """Titles and first sentences of a corpus, or of an index's passages, or its stored vectors.

    Args:
        path: a corpus, or an index's folder.
        n_queries: how many, where there are as many; None is `N_TEXTS` or `N_VECTORS`.
        seed: which.
        mode: of an index: texts or vectors; None is texts where it has an encoder.

    Raises:
        CorpusError: the corpus can't be read, or has nothing to ask with.
        IndexFormatError: the index can't be read.
        ConfigError: vectors are wanted of a corpus, or the index is empty.
    """
    rng = random.Random(seed)
    if not (Path(path) / "CURRENT").exists():
        if mode == "vector":
            raise ConfigError(f"{path} is a corpus; vectors are sampled from an index's folder")
        passages: Iterator[tuple[str, str]] = (
            (passage.title, passage.text) for passage in read_corpus(path)
        )
        return _texts(path, _reservoir(passages, n_queries or N_TEXTS, rng), rng)
    manifest = load_manifest(Path(path))
    if not manifest.n_live:
        raise ConfigError(f"{path}: the index is empty; there is nothing to ask with")
    if mode == "text" or (mode is None and manifest.encoder is not None):
        passages = _passages(Path(path), manifest)
        return _texts(path, _reservoir(passages, n_queries or N_TEXTS, rng), rng)
    n_vectors = n_queries or N_VECTORS
    held_out = from_stored(Path(path), manifest, n_queries=n_vectors, seed=seed)
    order = np.random.default_rng(seed).permutation(len(held_out.vectors))
    return Drawn(source=f"stored vectors of {path}", vectors=held_out.vectors[order])


def _texts(path: str, passages: list[tuple[str, str]], rng: random.Random) -> Drawn:
    asked = tuple(dict.fromkeys(text for text in (_question(p, rng) for p in passages) if text))
    if not asked:
        raise CorpusError(f"{path}: no passage has a title or a sentence to ask with")
    return Drawn(source=f"titles and first sentences of {path}", texts=asked)


def _passages(index_dir: Path, manifest: Manifest) -> Iterator[tuple[str, str]]:
    """Title and text of each passage, read from the mapped files a part at a time."""
    for segment in (segment for shard in manifest.shards for segment in shard.segments):
        file = PassageFile.open(check_file(index_dir, segment.files.passages))
        for start in range(0, segment.n_rows, _PART_ROWS):
            rows = np.arange(start, min(start + _PART_ROWS, segment.n_rows))
            columns = file.take(rows, ["title", "text"])
            yield from zip(_split(columns["title"]), _split(columns["text"]), strict=True)


def _split(column: TextColumn) -> list[str]:
    ends = column.offsets.tolist()
    return [column.data[a:b].decode() for a, b in pairwise(ends)]


def _question(passage: tuple[str, str], rng: random.Random) -> str:
    title, text = passage
    choices = [choice for choice in (title.strip(), first_sentence(text)) if choice]
    return rng.choice(choices) if choices else ""


def _reservoir(
    passages: Iterator[tuple[str, str]], n: int, rng: random.Random
) -> list[tuple[str, str]]:
    """`n` of the passages, each as likely as any other, in random order (Vitter's algorithm R)."""
    kept = list(islice(passages, n))
    for seen, passage in enumerate(passages, start=len(kept) + 1):
        place = rng.randrange(seen)
        if place < n:
            kept[place] = passage
    rng.shuffle(kept)
    return kept
