"""Queries for a load run, drawn from a corpus or from an index's own files.

Rule: a uniform sample by seed, so that no part of the corpus is asked more than another. A sentence
of a passage is an easy question for its own passage: such load is realistic, its recall is not.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt

from deploy.calibration.questions import first_sentence, from_stored
from shard_server.building.passage import Passage
from shard_server.building.read import read_corpus
from shoal.errors import ConfigError, CorpusError
from shoal.formats.versions import load_manifest


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """Queries: texts, or vectors float32 (n, dim), one of them empty; `source` is for people."""

    source: str
    texts: tuple[str, ...] = ()
    vectors: npt.NDArray[np.float32] | None = None


def draw(path: str, n_queries: int, seed: int) -> Drawn:
    """First sentences and titles of a corpus, or stored vectors of an index's folder.

    Raises:
        CorpusError: the corpus can't be read, or has nothing to ask with.
        IndexFormatError: the index can't be read.
    """
    if (Path(path) / "CURRENT").exists():
        manifest = load_manifest(Path(path))
        held_out = from_stored(Path(path), manifest, n_queries=n_queries, seed=seed)
        if not len(held_out.vectors):
            raise ConfigError(f"{path}: the index is empty; there is nothing to ask with")
        order = np.random.default_rng(seed).permutation(len(held_out.vectors))
        return Drawn(source=f"stored vectors of {path}", vectors=held_out.vectors[order])
    rng = random.Random(seed)
    texts = [_question(passage, rng) for passage in _reservoir(read_corpus(path), n_queries, rng)]
    asked = tuple(dict.fromkeys(text for text in texts if text))
    if not asked:
        raise CorpusError(f"{path}: no passage has a title or a sentence to ask with")
    return Drawn(source=f"titles and first sentences of {path}", texts=asked)


def _question(passage: Passage, rng: random.Random) -> str:
    choices = [text for text in (passage.title.strip(), first_sentence(passage.text)) if text]
    return rng.choice(choices) if choices else ""


def _reservoir(passages: Iterator[Passage], n: int, rng: random.Random) -> list[Passage]:
    """`n` of the passages, each as likely as any other, in random order (Vitter's algorithm R)."""
    kept = list(islice(passages, n))
    for seen, passage in enumerate(passages, start=len(kept) + 1):
        place = rng.randrange(seen)
        if place < n:
            kept[place] = passage
    rng.shuffle(kept)
    return kept
