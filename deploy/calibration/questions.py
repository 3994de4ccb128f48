"""Queries to calibrate with, held out of what they search.

A file of questions is best. Without one, titles and first sentences of passages are encoded as
questions; an index of bare vectors is asked with its own. Such a query's own passage is left out
of both the truth and the answers, or it would be found for free.
"""

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from shard_server.building.vectors import read_stored
from shoal import contract
from shoal.contract import EncoderContract
from shoal.errors import ConfigError, CorpusError
from shoal.evaluation.files import read_queries
from shoal.formats.manifest import CalibrationQueries, Manifest, Segment
from shoal.formats.passages import PassageFile
from shoal.formats.versions import check_file
from shoal.vectors import Matrix

_SENTENCE_END = re.compile(r"(?<=[.!?])\s+|\n")
_MAX_SENTENCE_CHARS = 400

Ordinals = npt.NDArray[np.int64]


class QuestionEncoder(Protocol):
    """Encodes questions as the index's own encoder does."""

    @property
    def contract(self) -> EncoderContract:
        """What it is, with probes."""

    def encode_queries(self, texts: Sequence[str]) -> Matrix:
        """Vectors (n, dim)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOut:
    """Queries: `vectors` float32 (n, dim); `own` int64 (n,), the ordinal to leave out or -1;
    `kinds` int64 (n,), the place in `kind_names` of what each was made of.
    """

    source: CalibrationQueries
    vectors: Matrix
    own: Ordinals
    kinds: npt.NDArray[np.int64]
    kind_names: tuple[str, ...]

    @property
    def leaves_out_own(self) -> bool:
        """Whether any query is a passage's own."""
        return bool((self.own >= 0).any())


def from_texts(texts: Sequence[str], encoder: QuestionEncoder) -> HeldOut:
    """Questions as they are asked."""
    return _foreign(encoder.encode_queries(texts))


def read_texts(path: Path, n_queries: int) -> list[str]:
    """Texts of a queries file; at most `n_queries`, spread evenly over the file.

    Raises:
        CorpusError: beginning with file:line.
    """
    texts = list(read_queries(path).values())
    return [texts[i] for i in _spread(len(texts), n_queries)]


def read_vectors(path: Path, dim: int, n_queries: int) -> HeldOut:
    """Query vectors of a .npy file, (n, dim); at most `n_queries`, spread evenly over the file.

    Raises:
        CorpusError: not finite numbers of that shape.
    """
    try:
        stored = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as failure:
        raise CorpusError(f"{path}: can't be read as .npy: {failure}") from failure
    if stored.ndim != 2 or stored.shape[1] != dim or not len(stored):
        raise CorpusError(f"{path}: shape {stored.shape}; the index takes (n, {dim})")
    vectors = np.ascontiguousarray(stored[_spread(len(stored), n_queries)], dtype=np.float32)
    if not np.isfinite(vectors).all():
        raise CorpusError(f"{path}: holds values that are not finite")
    return _foreign(vectors)


def from_passages(
    index_dir: Path, manifest: Manifest, encoder: QuestionEncoder, *, n_queries: int, seed: int = 0
) -> HeldOut:
    """Titles and first sentences of a sample of passages, half each where there are titles."""
    texts: list[str] = []
    own: list[int] = []
    kinds: list[int] = []
    for segment, rows in _sample(manifest, n_queries, seed):
        file = PassageFile.open(check_file(index_dir, segment.files.passages))
        columns = file.take(rows, ["title", "text"])
        titles, bodies = (_texts(columns[name].data, columns[name].offsets)
                          for name in ("title", "text"))  # fmt: skip
        for row, title, body in zip(rows.tolist(), titles, bodies, strict=True):
            sentence = first_sentence(body)
            kind = len(texts) % 2 if title.strip() and sentence else int(not title.strip())
            text = sentence if kind else title
            if text.strip():
                texts.append(text)
                own.append(int(file.ordinals[row]))
                kinds.append(kind)
    if not texts:
        raise ConfigError("no passage has a title or a text to ask with; give --queries FILE")
    return HeldOut(
        source="passages",
        vectors=encoder.encode_queries(texts),
        own=np.asarray(own, dtype=np.int64),
        kinds=np.asarray(kinds, dtype=np.int64),
        kind_names=("titles", "first sentences"),
    )


def from_stored(index_dir: Path, manifest: Manifest, *, n_queries: int, seed: int = 0) -> HeldOut:
    """A sample of the stored vectors."""
    vectors, own = [], []
    for segment, rows in _sample(manifest, n_queries, seed):
        stored = read_stored(check_file(index_dir, segment.files.vectors), manifest.dim)
        file = PassageFile.open(check_file(index_dir, segment.files.passages))
        vectors.append(stored[rows].astype(np.float32))
        own.append(file.ordinals[rows])
    matrix = np.ascontiguousarray(np.concatenate(vectors))
    return HeldOut(
        source="vectors",
        vectors=matrix,
        own=np.concatenate(own).astype(np.int64),
        kinds=np.zeros(len(matrix), dtype=np.int64),
        kind_names=("vectors",),
    )


def check_encoder(manifest: Manifest, encoder: QuestionEncoder) -> None:
    """Refuses an encoder that is not the index's own.

    Raises:
        ConfigError: saying how they differ.
    """
    if manifest.encoder is None:
        raise ConfigError("the index holds bare vectors: --queries must be a .npy of vectors")
    fault = contract.disagreement(manifest.encoder, encoder.contract)
    if fault:
        raise ConfigError(fault)


def first_sentence(text: str) -> str:
    """Up to the first full stop, question or exclamation mark, or line's end; 400 characters."""
    return _SENTENCE_END.split(text.strip(), maxsplit=1)[0][:_MAX_SENTENCE_CHARS]


def _foreign(vectors: Matrix) -> HeldOut:
    n_queries = len(vectors)
    return HeldOut(
        source="file",
        vectors=vectors,
        own=np.full(n_queries, -1, dtype=np.int64),
        kinds=np.zeros(n_queries, dtype=np.int64),
        kind_names=("questions",),
    )


def _sample(
    manifest: Manifest, n_queries: int, seed: int
) -> list[tuple[Segment, npt.NDArray[np.int64]]]:
    """Rows of a uniform sample of the passages, by segment, ascending."""
    segments = [segment for shard in manifest.shards for segment in shard.segments]
    ends = np.cumsum([segment.n_rows for segment in segments], dtype=np.int64)
    n_rows = int(ends[-1]) if len(ends) else 0
    drawn = np.random.default_rng(seed).choice(n_rows, min(n_queries, n_rows), replace=False)
    drawn.sort()
    of_segment = np.searchsorted(ends, drawn, side="right")
    starts = ends - [segment.n_rows for segment in segments]
    return [
        (segment, drawn[of_segment == number] - starts[number])
        for number, segment in enumerate(segments)
        if (of_segment == number).any()
    ]


def _spread(n_there: int, n_wanted: int) -> npt.NDArray[np.int64]:
    return np.unique(np.linspace(0, n_there - 1, min(n_there, n_wanted)).round().astype(np.int64))


def _texts(data: bytes, offsets: npt.NDArray[np.uint32]) -> list[str]:
    ends = offsets.tolist()
    return [data[a:b].decode() for a, b in itertools.pairwise(ends)]
