"""What load to make on what, as one value that travels to the workers as JSON."""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from shoal.attempts import refuse_oversized
from shoal.bench.queries import Batch, batches_of, generated_texts, read_vectors
from shoal.bench.schedule import Arrivals, Stage
from shoal.bench.target import adapter_of
from shoal.credentials import NO_CREDENTIALS, Credentials, Tls
from shoal.errors import InvalidArgumentError
from shoal.requests import SearchOptions, many_queries, search_request
from shoal.rpc.deadline import check_timeout
from shoal.target import check_target

_N_GENERATED = 2_048


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadPlan:
    """One run against one target.

    Exactly one of `rate` (calls a second, sent on schedule whatever the answers do: open loop; a
    ramp with `to_rate`) and `clients` (each sends its next call when the last was answered: closed
    loop) is set. `texts` or `vectors_file` (a .npy of shape (n, dim)) are the queries, taken in
    turn, `batch` a call; without either, questions are made up from `seed`. `options` are the
    search's. `workers` processes share the load, each with its own `connections`.
    `recall_sample` calls are searched exactly as well, before the run, by the target or by the
    router at `truth_target` where it can't. `adapter` names what speaks to the target where its
    form doesn't (`shoal.bench.adapters`).
    """

    target: str
    adapter: str = ""
    rate: float | None = None
    to_rate: float | None = None
    clients: int | None = None
    arrivals: Arrivals = "constant"
    duration_s: float = 10.0
    warmup_s: float = 2.0
    batch: int = 1
    workers: int = 1
    connections: int = 4
    timeout_s: float = 10.0
    seed: int = 0
    recall_sample: int = 0
    truth_target: str = ""
    texts: tuple[str, ...] = ()
    vectors_file: str = ""
    options: SearchOptions = dataclasses.field(default_factory=SearchOptions)
    credentials: Credentials = NO_CREDENTIALS

    def __post_init__(self) -> None:
        _ = self.stage  # refuses what can't be a load
        if not self.adapter:
            object.__setattr__(self, "adapter", adapter_of(self.target))
        if self.adapter == "grpc":
            check_target(self.target)
        check_timeout(self.timeout_s)
        for name in ("batch", "workers", "connections"):
            value = getattr(self, name)
            if not value > 0:
                raise InvalidArgumentError(f"{name} is {value}; it must be above 0", field=name)

    @property
    def stage(self) -> Stage:
        """The load."""
        return Stage(
            rate=self.rate,
            to_rate=self.to_rate,
            clients=self.clients,
            arrivals=self.arrivals,
            warmup_s=self.warmup_s,
            duration_s=self.duration_s,
        )

    def with_stage(self, stage: Stage) -> Self:
        """The same queries for the same target under another load."""
        values = {field.name: getattr(stage, field.name) for field in dataclasses.fields(stage)}
        return dataclasses.replace(self, **values)

    @property
    def k(self) -> int:
        """Hits a query."""
        return int(self.options.get("k", 10))

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

    def batches(self) -> list[Batch]:
        """The queries of each call, in turn.

        Raises:
            CorpusError: the file of vectors can't be read.
        """
        if self.vectors_file:
            return batches_of(read_vectors(Path(self.vectors_file)), self.batch)
        n_made = max(_N_GENERATED, self.batch)
        return batches_of(self.texts or generated_texts(n_made, self.seed), self.batch)

    def requests(self) -> list[bytes]:
        """The calls to make, in turn, serialized: the generator's time goes to sending.

        Raises:
            CorpusError: the file of vectors can't be read.
            InvalidArgumentError: a batch is larger than a server takes.
        """
        requests = [
            search_request(many_queries(part), self.options).SerializeToString()
            for part in self.batches()
        ]
        refuse_oversized(max(map(len, requests)))
        return requests

    def exact_request(self, batch: Batch) -> bytes:
        """The same search of one call's queries, exact, and answered with ids alone."""
        options = SearchOptions(**self.options)
        options |= {"n_probe": None, "oversample": None, "target_recall": None, "exact": True,
                    "fields": (), "priority": "bulk"}  # fmt: skip
        return search_request(many_queries(batch), options).SerializeToString()
