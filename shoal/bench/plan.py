"""What load to make, as one value that travels to the generator's own process as JSON."""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from shoal.attempts import refuse_oversized
from shoal.credentials import NO_CREDENTIALS, Credentials, Tls
from shoal.errors import CorpusError, InvalidArgumentError
from shoal.requests import SearchOptions, many_queries, search_request
from shoal.rpc.deadline import check_timeout
from shoal.target import check_target

_BUILT_IN_QUERIES = (
    "how do I copy a list",
    "what is a generator expression",
    "when is a file closed",
    "how are exceptions raised again",
    "what does a context manager do",
    "how do I sort by two keys",
    "what is the difference between a tuple and a list",
    "how do I read a file line by line",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadPlan:
    """One run against one router.

    Exactly one of `rate` (calls a second, sent on schedule whatever the answers do: open loop) and
    `clients` (each sends its next call when the last was answered: closed loop) is set.
    `texts` or `vectors_file` (a .npy of shape (n, dim)) are the queries, taken in turn, `batch` a
    call; `options` are the search's.
    """

    target: str
    rate: float | None = None
    clients: int | None = None
    duration_s: float = 10.0
    warmup_s: float = 2.0
    batch: int = 1
    connections: int = 4
    timeout_s: float = 10.0
    texts: tuple[str, ...] = ()
    vectors_file: str = ""
    options: SearchOptions = dataclasses.field(default_factory=SearchOptions)
    credentials: Credentials = NO_CREDENTIALS

    def __post_init__(self) -> None:
        if (self.rate is None) == (self.clients is None):
            raise InvalidArgumentError("give a rate or a number of clients, one of them")
        check_target(self.target)
        check_timeout(self.timeout_s)
        for name in ("rate", "clients", "duration_s", "batch", "connections"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise InvalidArgumentError(f"{name} is {value}; it must be above 0", field=name)

    def to_json(self) -> str:
        """The plan as JSON, token included: it goes through a pipe, and nowhere else."""
        return json.dumps(dataclasses.asdict(self), default=str)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The plan that `to_json` wrote."""
        values: dict[str, Any] = json.loads(text)
        shown = values.pop("credentials")
        tls = shown["tls"] and Tls(
            server_name=shown["tls"].pop("server_name"),
            **{name: Path(path) for name, path in shown["tls"].items() if path},
        )
        credentials = Credentials(tls=tls, token=shown["token"])
        return cls(**{**values, "texts": tuple(values["texts"]), "credentials": credentials})

    def requests(self) -> list[bytes]:
        """The calls to make, in turn, serialized: the generator's time goes to sending.

        Every query is in one call; a last part that doesn't fill a batch is left out where there
        is a full one.

        Raises:
            CorpusError: the file of vectors can't be read.
            InvalidArgumentError: a batch is larger than a server takes.
        """
        queries: Any = self.texts or _BUILT_IN_QUERIES
        if self.vectors_file:
            queries = read_vectors(Path(self.vectors_file))
        n_calls = len(queries) // self.batch
        if not n_calls:  # fewer queries than a batch: repeat them until they fill one
            indices = np.resize(np.arange(len(queries)), self.batch)
            queries = queries[indices] if self.vectors_file else tuple(queries[i] for i in indices)
            n_calls = 1
        parts = (queries[i * self.batch : (i + 1) * self.batch] for i in range(n_calls))
        requests = [
            search_request(many_queries(part), self.options).SerializeToString() for part in parts
        ]
        refuse_oversized(max(map(len, requests)))
        return requests


def read_vectors(path: Path) -> npt.NDArray[np.floating[Any]]:
    """The (n, dim) array in a .npy file; CorpusError where there is none."""
    try:
        vectors = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as failure:
        raise CorpusError(f"{path}: can't be read as a .npy array: {failure}") from failure
    if vectors.ndim != 2 or not len(vectors):
        raise CorpusError(f"{path}: has shape {vectors.shape}; query vectors are (n, dim)")
    return np.asarray(vectors)
