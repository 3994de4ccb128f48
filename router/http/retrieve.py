r"""`POST /retrieve`: asked and answered as the retrieval servers that RL and RAG stacks run.

Asked {"queries": [...], "topk": 3, "return_scores": true}, it answers {"result": [[{"document":
{"id": ..., "contents": "\"Title\"\nText"}, "score": ...}, ...], ...]}; without scores each list
holds the documents themselves. Source of the shape: Search-R1's `retrieval_server.py`, whose
clients take the title from the first line of `contents`. Knows no server; `answer` is the
router's search.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from router.http.fields import switch_of, text_of, whole_of
from router.query import MAX_FETCHED, MAX_K, check_text, max_queries
from router.slow_queries import Answer
from shoal.errors import InvalidArgumentError
from shoal.rpc.deadline import Deadline
from shoal.v1 import priority_pb2
from shoal.v1 import search_pb2 as pb

DEFAULT_TOPK = 3
TIMEOUT_S = 60.0
"""Where a request names none: these clients set no limit and send long lists."""
MAX_INTERACTIVE = 64
"""Queries of one request that somebody may be waiting for; a longer list is a batch job's."""

_FIELDS = ("title", "text")


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One request, checked as far as the index doesn't matter; no `index` is the only one."""

    queries: tuple[str, ...]
    k: int
    with_scores: bool
    index: str = ""


def asked_of(content: dict[str, Any]) -> Asked:
    """The request in `content`; fields that other servers may know are passed over.

    Raises:
        InvalidArgumentError: naming the field.
    """
    queries = content.get("queries")
    if not isinstance(queries, list) or not queries:
        raise InvalidArgumentError("queries must be a list of texts", field="queries")
    k = whole_of(content, "topk") or DEFAULT_TOPK
    if not 1 <= k <= MAX_K:
        raise InvalidArgumentError(f"topk is {k}; it must be 1 to {MAX_K}", field="topk")
    if len(queries) * k > MAX_FETCHED:
        raise InvalidArgumentError(
            f"{len(queries)} queries of topk={k} are {len(queries) * k:,} passages, at most "
            f"{MAX_FETCHED:,} a request; send fewer",
            field="queries",
        )
    return Asked(
        queries=tuple(_query(query, f"queries[{i}]") for i, query in enumerate(queries)),
        k=k,
        with_scores=switch_of(content, "return_scores"),
        index=text_of(content.get("index") or "", "index"),
    )


def _query(value: Any, field: str) -> str:
    # all before the first is searched: a long list must not be refused when half of it is done
    query = text_of(value, field)
    check_text(query, field)
    return query


def searches_of(asked: Asked) -> Iterator[pb.SearchRequest]:
    """The searches that answer it, in order, each as large as one search may be."""
    n = max_queries(asked.k, frozenset(_FIELDS))
    bulk = len(asked.queries) > MAX_INTERACTIVE
    priority = priority_pb2.PRIORITY_BULK if bulk else priority_pb2.PRIORITY_INTERACTIVE
    for start in range(0, len(asked.queries), n):
        request = pb.SearchRequest(index=asked.index, k=asked.k, priority=priority)
        request.fields.paths.extend(_FIELDS)
        for query in asked.queries[start : start + n]:
            request.queries.add(text=query)
        yield request


def results_of(response: pb.SearchResponse, *, with_scores: bool) -> bytes:
    """The answer's lists as JSON, without the brackets around them."""
    lists = [[_hit(hit, with_scores=with_scores) for hit in r.hits] for r in response.results]
    return json.dumps(lists, ensure_ascii=False, separators=(",", ":")).encode()[1:-1]


def _hit(hit: pb.Hit, *, with_scores: bool) -> dict[str, Any]:
    passage = hit.passage
    # a corpus in this shape was read whole: its texts begin with their titles already
    title = " ".join(passage.title.split())
    contents = f'"{title}"\n{passage.text}' if title else passage.text
    document = {"id": passage.id, "contents": contents}
    return {"document": document, "score": hit.score} if with_scores else document


async def retrieve(asked: Asked, answer: Answer, deadline: Deadline) -> bytes:
    """The whole answer. Raises ShoalError: of the first search that fails."""
    parts = []
    for request in searches_of(asked):
        response = await answer(request, deadline)
        parts.append(results_of(response, with_scores=asked.with_scores))
    return b'{"result":[' + b",".join(parts) + b"]}"
