"""What a search answers, as frozen values, and how they are read off the wire.

Rule: everything that the server said is kept, and nothing is made up: what an older server leaves
out is the type's empty value, and an enum's member that this release doesn't know is UNSPECIFIED.
Knows protobuf messages; must not know channels, retries or time.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, TypeAlias

from shoal.v1 import search_pb2 as pb

MetadataValue: TypeAlias = str | int | float | bool | tuple[str, ...]


class Accuracy(StrEnum):
    """How a hit's score was computed: from the stored vector, or from its compressed code."""

    UNSPECIFIED = "UNSPECIFIED"
    EXACT = "EXACT"
    APPROXIMATE = "APPROXIMATE"


class ScoreKind(StrEnum):
    """What a score is; higher is better in all of them."""

    UNSPECIFIED = "UNSPECIFIED"
    INNER_PRODUCT = "INNER_PRODUCT"
    NEGATIVE_SQUARED_L2 = "NEGATIVE_SQUARED_L2"


class Outcome(StrEnum):
    """What became of one shard in one call."""

    UNSPECIFIED = "UNSPECIFIED"
    OK = "OK"
    LATE = "LATE"
    DOWN = "DOWN"
    OVERLOADED = "OVERLOADED"
    WRONG_VERSION = "WRONG_VERSION"
    INVALID_REPLY = "INVALID_REPLY"


@dataclass(frozen=True, slots=True, kw_only=True)
class Hit:
    """One passage found; title, text and metadata are empty where `fields` left them out."""

    id: str
    score: float
    accuracy: Accuracy
    title: str
    text: str
    metadata: Mapping[str, MetadataValue]
    ordinal: int
    shard: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardOutcome:
    """How one shard did; `elapsed_ms` is 0 where it didn't answer."""

    shard: int
    outcome: Outcome
    n_live: int
    detail: str
    elapsed_ms: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Timings:
    """Where the time in the router went, in milliseconds; the stages follow each other."""

    queue_ms: float
    encode_ms: float
    search_ms: float
    merge_ms: float
    fetch_ms: float
    total_ms: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """What holds for a whole call: who answered, how much of the corpus was searched, and how.

    `n_probe_wanted` is above 0 where little time was left and `n_probe` is less for it.
    """

    index: str
    version: int
    coverage: float
    shards: tuple[ShardOutcome, ...]
    encoder_fingerprint: str
    n_probe: int
    n_probe_wanted: int
    candidates: int
    score_kind: ScoreKind
    timings: Timings
    request_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer(Served):
    """The answer to one query: its hits, best first."""

    hits: tuple[Hit, ...]
    query_truncated: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One query's part of a call with many."""

    hits: tuple[Hit, ...]
    query_truncated: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers(Served):
    """The answer to many queries: `answers[i]` belongs to query i."""

    results: tuple[Result, ...]

    def __len__(self) -> int:
        return len(self.results)

    def __iter__(self) -> Iterator[Result]:
        return iter(self.results)

    def __getitem__(self, i: int) -> Result:
        return self.results[i]


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatingPoint:
    """A measured setting: the recall at `k` against exact search."""

    n_probe: int
    oversample: float
    recall: float
    k: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Index:
    """A named, searchable corpus, as it is served at this moment."""

    name: str
    version: int
    n_live: int
    coverage: float
    dim: int
    n_shards: int
    recipe: str
    score_kind: ScoreKind
    default_n_probe: int
    default_oversample: float
    encoder_fingerprint: str
    encoder_model: str
    operating_points: tuple[OperatingPoint, ...]
    created_at: datetime | None


def answers_of(response: pb.SearchResponse) -> Answers:
    """Reads the answer to many queries."""
    results = tuple(
        Result(hits=_hits(result.hits), query_truncated=result.query_truncated)
        for result in response.results
    )
    return Answers(results=results, **_served(response))


def answer_of(response: pb.SearchResponse) -> Answer:
    """Reads the answer to one query; the response must hold exactly one result."""
    (result,) = response.results
    return Answer(
        hits=_hits(result.hits), query_truncated=result.query_truncated, **_served(response)
    )


def index_of(message: pb.Index) -> Index:
    """Reads the description of one index."""
    created_at = (
        message.create_time.ToDatetime(tzinfo=UTC) if message.HasField("create_time") else None
    )
    return Index(
        name=message.name,
        version=message.version,
        n_live=message.n_live,
        coverage=message.coverage,
        dim=message.dim,
        n_shards=message.n_shards,
        recipe=message.recipe,
        score_kind=_SCORE_KINDS.get(message.score_kind, ScoreKind.UNSPECIFIED),
        default_n_probe=message.default_n_probe,
        default_oversample=message.default_oversample,
        encoder_fingerprint=message.encoder_fingerprint,
        encoder_model=message.encoder_model,
        operating_points=tuple(
            OperatingPoint(n_probe=p.n_probe, oversample=p.oversample, recall=p.recall, k=p.k)
            for p in message.operating_points
        ),
        created_at=created_at,
    )


_ACCURACIES = {
    pb.ACCURACY_EXACT: Accuracy.EXACT,
    pb.ACCURACY_APPROXIMATE: Accuracy.APPROXIMATE,
}
_SCORE_KINDS = {
    pb.SCORE_KIND_INNER_PRODUCT: ScoreKind.INNER_PRODUCT,
    pb.SCORE_KIND_NEGATIVE_SQUARED_L2: ScoreKind.NEGATIVE_SQUARED_L2,
}
_OUTCOMES = {
    pb.OUTCOME_OK: Outcome.OK,
    pb.OUTCOME_LATE: Outcome.LATE,
    pb.OUTCOME_DOWN: Outcome.DOWN,
    pb.OUTCOME_OVERLOADED: Outcome.OVERLOADED,
    pb.OUTCOME_WRONG_VERSION: Outcome.WRONG_VERSION,
    pb.OUTCOME_INVALID_REPLY: Outcome.INVALID_REPLY,
}


def _served(response: pb.SearchResponse) -> dict[str, Any]:
    timings = response.timings
    return {
        "index": response.index,
        "version": response.version,
        "coverage": response.coverage,
        "shards": tuple(
            ShardOutcome(
                shard=shard.shard,
                outcome=_OUTCOMES.get(shard.outcome, Outcome.UNSPECIFIED),
                n_live=shard.n_live,
                detail=shard.detail,
                elapsed_ms=shard.elapsed_ms,
            )
            for shard in response.shards
        ),
        "encoder_fingerprint": response.encoder_fingerprint,
        "n_probe": response.n_probe,
        "n_probe_wanted": response.n_probe_wanted,
        "candidates": response.candidates,
        "score_kind": _SCORE_KINDS.get(response.score_kind, ScoreKind.UNSPECIFIED),
        "timings": Timings(
            queue_ms=timings.queue_ms,
            encode_ms=timings.encode_ms,
            search_ms=timings.search_ms,
            merge_ms=timings.merge_ms,
            fetch_ms=timings.fetch_ms,
            total_ms=timings.total_ms,
        ),
        "request_id": response.request_id,
    }


def _hits(hits: Sequence[pb.Hit]) -> tuple[Hit, ...]:
    return tuple([_hit(hit, hit.passage) for hit in hits])


def _hit(hit: pb.Hit, passage: pb.Passage) -> Hit:
    return Hit(
        id=passage.id,
        score=hit.score,
        accuracy=_ACCURACIES.get(hit.accuracy, Accuracy.UNSPECIFIED),
        title=passage.title,
        text=passage.text,
        metadata={name: _value(value) for name, value in passage.metadata.items()},
        ordinal=hit.ordinal,
        shard=hit.shard,
    )


def _value(value: pb.Value) -> MetadataValue:
    match value.WhichOneof("kind"):
        case "int_value":
            return value.int_value
        case "double_value":
            return value.double_value
        case "bool_value":
            return value.bool_value
        case "string_list_value":
            return tuple(value.string_list_value.values)
        case _:
            return value.string_value
