"""Passages that come with their vectors: an encoder that looks them up instead of encoding.

Rule: vectors are handed out in the order of ingestion, each once, and never all in memory; a number
of passages that differs from the number of vectors is told before anything is built.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from shard_server.building.passage import Passage
from shard_server.building.vector_files import VectorFile
from shoal.contract import EncoderContract
from shoal.errors import CorpusError

_FLOAT16_MAX = float(np.finfo(np.float16).max)


class GivenVectors:
    """A `PassageEncode` over a stream of chunks of vectors.

    Args:
        chunks: float matrices (any number of rows, dim), in the passages' order.
        dim: columns of a vector.
        where: names the vectors in errors.
        contract: the encoder they came from; None for vectors that no encoder explains.
        origin: the same for the same vectors, and for no others; empty where that can't be told.
            A killed build is taken up by it.
    """

    def __init__(
        self,
        chunks: Iterable[npt.NDArray[np.floating[Any]]],
        dim: int,
        *,
        where: str,
        contract: EncoderContract | None = None,
        origin: str = "",
    ) -> None:
        self.dim = dim
        self.contract = contract
        self.origin = origin
        self._where = where
        self._chunks = iter(chunks)
        self._rest: npt.NDArray[np.floating[Any]] = np.empty((0, dim), dtype=np.float32)
        self._n_given = 0

    def __call__(
        self,
        titles: Sequence[str],  # noqa: ARG002 -- PassageEncode's, and not looked at
        texts: Sequence[str],
    ) -> npt.NDArray[np.float32]:
        """The next `len(texts)` vectors, float32.

        Raises:
            CorpusError: naming the row that is missing, not finite, or beyond float16.
        """
        vectors = self._take(len(texts))
        # Judged before the cast: a float64 beyond float32 would only warn. NaN fails it too.
        sound = (np.abs(vectors) <= _FLOAT16_MAX).all(axis=1)
        if not sound.all():
            raise CorpusError(
                f"{self._where}: row {self._n_given + int(np.argmin(sound))} holds NaN, infinity "
                f"or a value beyond {_FLOAT16_MAX:,.0f}, the largest that float16 holds"
            )
        self._n_given += len(vectors)
        return vectors.astype(np.float32)

    def skip_to(self, row: int) -> None:
        """Leave out the vectors before `row`: an earlier, unfinished build took them already."""
        while self._n_given < row:
            self._n_given += len(self._take(min(row - self._n_given, 8_192)))

    def _take(self, n_rows: int) -> npt.NDArray[np.floating[Any]]:
        parts = [self._rest]
        n_held = len(self._rest)
        while n_held < n_rows:
            chunk = next(self._chunks, None)
            if chunk is None:
                raise CorpusError(f"{self._where}: ends after {self._n_given + n_held} vectors")
            parts.append(chunk)
            n_held += len(chunk)
        held = parts[-1] if len(parts) == 2 and not len(parts[0]) else np.concatenate(parts)
        self._rest = held[n_rows:]
        return held[:n_rows]


def vectors_of(file: VectorFile) -> GivenVectors:
    """The encoder of an index of bare vectors."""
    return GivenVectors(file.chunks(), file.dim, where=file.where, origin=file.origin)


def bare_passages(file: VectorFile) -> Iterator[Passage]:
    """Passages that are nothing but the number of their row."""
    for row in range(file.n_rows):
        yield Passage(id=str(row), title="", text="", where=f"{file.where}:{row}")


def matched(passages: Iterable[Passage], file: VectorFile) -> Iterator[Passage]:
    """The passages, once it is sure that each has its vector.

    Raises:
        CorpusError: there are more or fewer passages than vectors.
    """
    n_passages = 0
    for passage in passages:
        n_passages += 1
        if n_passages > file.n_rows:
            raise CorpusError(
                f"{passage.where}: passage {n_passages} has no vector; {file.where} holds "
                f"{file.n_rows}, one a passage, in the same order"
            )
        yield passage
    if n_passages < file.n_rows:
        raise CorpusError(
            f"{file.where}: holds {file.n_rows} vectors, the corpus {n_passages} passages; "
            "there must be one a passage, in the same order"
        )
