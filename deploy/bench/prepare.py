"""The queries of a load run as its workers take them: texts, or a .npy file of vectors."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from shoal.bench.queries import N_TEXTS, N_VECTORS, generated_texts, generated_vectors
from shoal.bench.target import adapter_of
from shoal.client import Client
from shoal.credentials import Credentials
from shoal.errors import InvalidArgumentError
from shoal.evaluation.files import read_queries


@dataclass(frozen=True, slots=True, kw_only=True)
class QuerySource:
    """Where the queries come from: at most one of the three, or they are made up.

    Attributes:
        queries: a file of texts.
        vectors: a .npy of shape (n, dim).
        sample: a corpus, or an index's folder.
        mode: what to make up, or to draw of an index; None is texts where that can be.
        n_queries: how many are drawn or made up; None is `N_TEXTS` texts or `N_VECTORS` vectors.
        seed: which.
    """

    queries: Path | None = None
    vectors: Path | None = None
    sample: str | None = None
    mode: Literal["text", "vector"] | None = None
    n_queries: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        given = [value for value in (self.queries, self.vectors, self.sample) if value is not None]
        if len(given) > 1:
            raise InvalidArgumentError("give --queries, --vectors or --sample, one of them")


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """The queries, and in a few words where they are from."""

    source: str
    texts: tuple[str, ...] = ()
    vectors_file: str = ""


@contextmanager
def prepared(
    source: QuerySource, target: str, adapter: str, credentials: Credentials, index: str
) -> Iterator[Prepared]:
    """The queries of `source`; vectors that are drawn or made up lie in a file until the end.

    Raises:
        CorpusError: they can't be read.
        InvalidArgumentError: vectors are to be made up for what isn't a router.
        ShoalError: the server doesn't say how many dimensions its vectors have.
    """
    with tempfile.TemporaryDirectory(prefix="shoal-bench-") as folder:
        if source.queries is not None:
            texts = tuple(read_queries(source.queries).values())
            yield Prepared(source=str(source.queries), texts=texts)
        elif source.vectors is not None:
            yield Prepared(source=str(source.vectors), vectors_file=str(source.vectors))
        elif source.sample is not None:
            from deploy.bench.questions import draw  # noqa: PLC0415 -- needs a shard's packages

            drawn = draw(source.sample, source.n_queries, source.seed, source.mode)
            file = "" if drawn.vectors is None else _saved(Path(folder), drawn.vectors)
            yield Prepared(source=drawn.source, texts=drawn.texts, vectors_file=file)
        elif source.mode == "vector":
            if adapter not in {"", "grpc"} or adapter_of(target) != "grpc":
                raise InvalidArgumentError(
                    "--mode vector makes up vectors for a router's index; "
                    "give --vectors or --sample"
                )
            with Client(target, token=credentials.token, tls=credentials.tls) as client:
                dim = client.get_index(index).dim
            vectors = generated_vectors(source.n_queries or N_VECTORS, dim, source.seed)
            yield Prepared(
                source=f"{len(vectors):,} random directions",
                vectors_file=_saved(Path(folder), vectors),
            )
        else:
            texts = generated_texts(source.n_queries or N_TEXTS, source.seed)
            yield Prepared(source=f"{len(texts):,} made-up questions", texts=texts)


def _saved(folder: Path, vectors: npt.NDArray[np.float32]) -> str:
    path = folder / "vectors.npy"
    np.save(path, vectors)
    return str(path)
