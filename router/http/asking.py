"""The console's question and its answer: JSON to the search's messages and back. Pure."""

from typing import Any

from router.http.fields import number_of, refuse_unknown, switch_of, text_of, whole_of
from router.slow_queries import STAGES
from shoal.v1 import search_pb2 as pb

_WHOLE = ("k", "n_probe")
_NUMBERS = ("min_coverage", "target_recall", "oversample")
_FIELDS = frozenset({"question", "index", "exact", *_WHOLE, *_NUMBERS})


def search_of(content: dict[str, Any]) -> pb.SearchRequest:
    """The search that {"question": ..., "k": ..., ...} asks for; names are the search's own.

    Raises:
        InvalidArgumentError: naming the field.
    """
    refuse_unknown(content, _FIELDS)
    request = pb.SearchRequest(
        index=text_of(content.get("index") or "", "index"), exact=switch_of(content, "exact")
    )
    request.queries.add(text=text_of(content.get("question"), "question"))
    for name in _WHOLE:
        if (whole := whole_of(content, name)) is not None:
            setattr(request, name, whole)
    for name in _NUMBERS:
        if (number := number_of(content, name)) is not None:
            setattr(request, name, number)
    return request


def answer_of(response: pb.SearchResponse) -> dict[str, Any]:
    """The answer to one question, for the page."""
    (result,) = response.results
    return {
        "request_id": response.request_id,
        "index": response.index,
        "version": response.version,
        "coverage": response.coverage,
        "n_probe": response.n_probe,
        "n_probe_wanted": response.n_probe_wanted,
        "candidates": response.candidates,
        "score_kind": score_kind_name(response.score_kind),
        "query_truncated": result.query_truncated,
        "stages_ms": {name: getattr(response.timings, f"{name}_ms") for name in STAGES},
        "total_ms": response.timings.total_ms,
        "shards": [
            {
                "shard": told.shard,
                "outcome": pb.Outcome.Name(told.outcome).removeprefix("OUTCOME_"),
                "n_live": told.n_live,
                "elapsed_ms": told.elapsed_ms,
            }
            for told in response.shards
        ],
        "hits": [_hit(hit) for hit in result.hits],
    }


def score_kind_name(kind: int) -> str:
    """INNER_PRODUCT, NEGATIVE_SQUARED_L2; UNSPECIFIED for what isn't known."""
    value = pb.ScoreKind.DESCRIPTOR.values_by_number.get(kind)
    return value.name.removeprefix("SCORE_KIND_") if value else "UNSPECIFIED"


def _hit(hit: pb.Hit) -> dict[str, Any]:
    return {
        "id": hit.passage.id,
        "title": hit.passage.title,
        "text": hit.passage.text,
        "metadata": {
            name: _plain(hit.passage.metadata[name]) for name in sorted(hit.passage.metadata)
        },
        "score": hit.score,
        "is_exact": hit.accuracy == pb.ACCURACY_EXACT,
        "ordinal": hit.ordinal,
        "shard": hit.shard,
    }


def _plain(value: pb.Value) -> Any:
    kind = value.WhichOneof("kind")
    if kind is None:
        return None
    if kind == "string_list_value":
        return list(value.string_list_value.values)
    return getattr(value, kind)
