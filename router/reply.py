"""Values to the public messages. The other half of `query`: protobuf begins here."""

from dataclasses import dataclass

from router.merge import NO_HIT
from router.passages import PassageColumns
from router.query import SearchQuery
from router.search import Found
from router.served import ServedIndex
from router.topology import IndexVersion
from shoal.v1 import search_pb2 as pb


@dataclass(frozen=True, slots=True, kw_only=True)
class Clocked:
    """Seconds in the router: before the search, and in all."""

    queue_s: float
    total_s: float


def to_response(query: SearchQuery, found: Found, clocked: Clocked) -> pb.SearchResponse:
    """The answer as a message; the caller adds the request id."""
    response = pb.SearchResponse(
        index=query.index.name,
        version=query.index.version,
        coverage=found.coverage,
        encoder_fingerprint=query.index.question_fingerprint if query.texts else "",
        n_probe=found.n_probe,
        n_probe_wanted=query.n_probe if found.n_probe != query.n_probe else 0,
        candidates=query.candidates,
        score_kind=query.index.score_kind,  # type: ignore[arg-type]
        timings=pb.StageTimings(
            queue_ms=clocked.queue_s * 1e3,
            encode_ms=found.timings.encode_s * 1e3,
            search_ms=found.timings.search_s * 1e3,
            merge_ms=found.timings.merge_s * 1e3,
            fetch_ms=found.timings.fetch_s * 1e3,
            total_ms=clocked.total_s * 1e3,
        ),
    )
    for shard, n_live in enumerate(query.index.n_live_by_shard):
        outcome = found.outcomes[shard]
        response.shards.add(
            shard=shard,
            outcome=int(outcome.outcome),
            n_live=n_live,
            detail=outcome.detail,
            elapsed_ms=outcome.elapsed_ms,
        )
    _add_results(response, found)
    return response


def _add_results(response: pb.SearchResponse, found: Found) -> None:
    accuracy = pb.ACCURACY_EXACT if found.is_exact else pb.ACCURACY_APPROXIMATE
    winners = found.winners
    # lists of Python numbers once: reading them one by one from arrays costs ten times as much
    rows = zip(
        winners.parts.tolist(),
        found.places.tolist(),
        winners.scores.tolist(),
        winners.ordinals.tolist(),
        strict=True,
    )
    for number, (parts, places, scores, ordinals) in enumerate(rows):
        result = response.results.add(query_truncated=number in found.truncated)
        add_hit = result.hits.add
        for part, place, score, ordinal in zip(parts, places, scores, ordinals, strict=True):
            if part == NO_HIT:
                break
            shard = found.shards[part]
            hit = add_hit()  # field by field: keywords take a fifth longer
            hit.score, hit.accuracy, hit.ordinal, hit.shard = score, accuracy, ordinal, shard
            _fill(hit.passage, found.passages[shard], place)


def _fill(passage: pb.Passage, columns: PassageColumns, place: int) -> None:
    passage.id = columns.ids[place]
    if columns.titles is not None:
        passage.title = columns.titles[place]
    if columns.texts is not None:
        passage.text = columns.texts[place]
    if columns.metadata:
        for name, value in columns.metadata[place].values.items():
            passage.metadata[name].CopyFrom(value)


def to_index(index: ServedIndex, known: IndexVersion) -> pb.Index:
    """The index as a message."""
    message = pb.Index(
        name=known.name,
        version=known.version,
        n_live=known.n_live,
        coverage=index.coverage(),
        dim=known.dim,
        n_shards=len(known.n_live_by_shard),
        recipe=known.recipe,
        score_kind=known.score_kind,  # type: ignore[arg-type]
        default_n_probe=known.default_n_probe,
        default_oversample=known.default_oversample,
        encoder_fingerprint=known.question_fingerprint,
        encoder_model=known.encoder_model,
    )
    message.create_time.FromNanoseconds(known.created_at_ns)
    for point in known.operating_points:
        message.operating_points.add(
            n_probe=point.n_probe, oversample=point.oversample, recall=point.recall, k=point.k
        )
    return message
