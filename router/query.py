"""What a request asks for, checked before any work. Protobuf stops here; pure.

Every refusal names the field as the caller wrote it: `k`, `queries[3].text`.
"""

from dataclasses import dataclass

import numpy as np

from router.candidates import MAX_CANDIDATES, wanted_candidates
from router.topology import IndexVersion
from shoal import vectors
from shoal.errors import FailedPreconditionError, InvalidArgumentError, UnsupportedError
from shoal.v1 import priority_pb2
from shoal.v1 import search_pb2 as pb
from shoal.vectors import Matrix

MAX_QUERIES = 1_024
MAX_K = 1_000
MAX_N_PROBE = 2_048
MAX_TEXT_BYTES = 64 * 1024
MAX_ANSWER_BYTES = 32 * 1024 * 1024
MAX_FETCHED = 65_536
"""Passages that one call to a shard gives; all winners may lie in one shard."""
DEFAULT_K = 10
FIELDS = frozenset({"title", "text", "metadata"})

# what a hit may weigh, for refusing answers that would not fit a message: a guess on the large
# side for a passage of some 100 words
_HIT_BYTES = {"title": 64, "text": 1_024, "metadata": 128}
_BARE_HIT_BYTES = 64
_SERVED_MODES = frozenset({pb.SEARCH_MODE_UNSPECIFIED, pb.SEARCH_MODE_DENSE})
_PRIORITIES = frozenset(priority_pb2.Priority.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchQuery:
    """A checked request: texts at `text_places`, vectors (n_vectors, dim) at `vector_places`.

    `may_shrink`: n_probe is the index's own, so fewer lists may be searched where time is short;
    one that was asked for, or chosen for a recall, is kept.
    """

    index: IndexVersion
    n_queries: int
    texts: tuple[str, ...]
    text_places: tuple[int, ...]
    vectors: Matrix
    vector_places: tuple[int, ...]
    k: int
    offset: int
    n_probe: int
    may_shrink: bool
    candidates: int
    exact: bool
    min_coverage: float
    score_threshold: float | None
    priority: int
    fields: frozenset[str]

    @property
    def is_bulk(self) -> bool:
        """Whether nobody waits for it."""
        return self.priority == priority_pb2.PRIORITY_BULK

    @property
    def depth(self) -> int:
        """Hits that the shards must find: k and what is skipped."""
        return self.k + self.offset


def resolve(request: pb.SearchRequest, index: IndexVersion) -> SearchQuery:
    """Checks a request against the index that it names.

    Raises:
        InvalidArgumentError: naming the field.
        UnsupportedError: `mode` or `filter` that this release doesn't serve.
        FailedPreconditionError: a text for an index of bare vectors; `target_recall` before
            calibration.
    """
    _refuse_unsupported(request)
    n_queries = len(request.queries)
    _check_range("queries", n_queries, 1, MAX_QUERIES, unit=" queries")
    k = request.k if request.HasField("k") else DEFAULT_K
    offset = request.offset
    _check_range("k", k, 1, MAX_K)
    _check_range("offset", offset, 0, MAX_K - k, why=f" with k={k}: offset + k is at most {MAX_K}")
    min_coverage = request.min_coverage if request.HasField("min_coverage") else 1.0
    _check_range("min_coverage", min_coverage, 0.0, 1.0)
    fields = _fields(request)
    _check_answer_size(n_queries, k, fields)
    n_probe, candidates = _settings(request, index, k + offset)
    is_exact = request.exact or index.is_exact
    texts, text_places = _texts(request, index)
    query_vectors, vector_places = _vectors(request, index)
    return SearchQuery(
        index=index,
        n_queries=n_queries,
        texts=texts,
        text_places=text_places,
        vectors=query_vectors,
        vector_places=vector_places,
        k=k,
        offset=offset,
        n_probe=0 if is_exact else n_probe,
        may_shrink=not (
            is_exact or request.HasField("n_probe") or request.HasField("target_recall")
        ),
        candidates=0 if is_exact else candidates,
        exact=is_exact,
        min_coverage=min_coverage,
        score_threshold=request.score_threshold if request.HasField("score_threshold") else None,
        priority=request.priority or priority_pb2.PRIORITY_INTERACTIVE,
        fields=fields,
    )


def _refuse_unsupported(request: pb.SearchRequest) -> None:
    if request.mode not in _SERVED_MODES:
        raise UnsupportedError("mode: this release serves DENSE alone")
    if request.HasField("filter"):
        raise UnsupportedError("filter: this release serves no filters")
    if request.priority not in _PRIORITIES:
        raise InvalidArgumentError(f"priority {request.priority} is not known", field="priority")


def _settings(request: pb.SearchRequest, index: IndexVersion, depth: int) -> tuple[int, int]:
    """n_probe and candidates, as given, for the recall wanted, or the index's own."""
    if request.HasField("n_probe"):
        _check_range("n_probe", request.n_probe, 1, MAX_N_PROBE)
    if request.HasField("oversample") and request.oversample != 0:
        _check_range("oversample", request.oversample, 1, MAX_CANDIDATES, why=", or 0 for none")
    if request.HasField("score_threshold") and not np.isfinite(request.score_threshold):
        raise InvalidArgumentError("score_threshold must be finite", field="score_threshold")
    if request.HasField("target_recall"):
        return _for_recall(request, index, depth)
    n_probe = request.n_probe if request.HasField("n_probe") else index.default_n_probe
    oversample = request.oversample if request.HasField("oversample") else index.default_oversample
    return min(n_probe, index.n_lists), wanted_candidates(depth, oversample)


def _for_recall(request: pb.SearchRequest, index: IndexVersion, depth: int) -> tuple[int, int]:
    """The cheapest measured setting: of the points at the least k that reaches `depth` and holds
    one that promises the recall, the first. Fewer hits than its k get as many candidates as it.
    """
    recall = request.target_recall
    if not 0.0 < recall <= 1.0:
        raise InvalidArgumentError(
            f"target_recall is {recall}; it must be above 0 and at most 1", field="target_recall"
        )
    if request.HasField("n_probe") or request.HasField("oversample") or request.exact:
        raise InvalidArgumentError(
            "target_recall chooses n_probe and oversample itself; send one or the other",
            field="target_recall",
        )
    if index.is_exact:  # whatever is wanted
        return 0, 0
    if not index.operating_points:
        raise FailedPreconditionError(
            f"index {index.name} is not calibrated, so target_recall has nothing to choose from; "
            "run `shoal index calibrate`, or send n_probe"
        )
    depth = min(depth, index.n_live)
    deep = [p for p in index.operating_points if p.k >= depth]
    if not deep:
        most = max(p.k for p in index.operating_points)
        raise FailedPreconditionError(
            f"index {index.name} is calibrated for k up to {most}, not {depth}; calibrate it with "
            f"-k {depth}, or send n_probe"
        )
    enough = [p for p in deep if p.recall >= recall]
    if not enough:
        best = max(p.recall for p in deep)
        raise FailedPreconditionError(
            f"no operating point of index {index.name} promises recall {recall:g} at k={depth}; "
            f"the best promises {best:.3f}; send exact, or n_probe"
        )
    point = min(enough, key=lambda p: p.k)  # the first of them, and so the cheapest
    return min(point.n_probe, index.n_lists), wanted_candidates(
        max(depth, point.k), point.oversample
    )


def _fields(request: pb.SearchRequest) -> frozenset[str]:
    if not request.HasField("fields"):
        return FIELDS
    wanted = frozenset(request.fields.paths)
    unknown = sorted(wanted - FIELDS)
    if unknown:
        raise InvalidArgumentError(
            f"fields names {unknown[0][:64]!r}; a passage has title, text and metadata",
            field="fields",
        )
    return wanted


def _check_answer_size(n_queries: int, k: int, fields: frozenset[str]) -> None:
    if fields and n_queries * k > MAX_FETCHED:
        raise InvalidArgumentError(
            f"{n_queries} queries of k={k} are {n_queries * k:,} passages, at most "
            f"{MAX_FETCHED:,} come with their fields; ask for fewer, or for no fields",
            field="queries",
        )
    hit_bytes = _hit_bytes(fields)
    if n_queries * k * hit_bytes > MAX_ANSWER_BYTES:
        raise InvalidArgumentError(
            f"{n_queries} queries of k={k} with {', '.join(sorted(fields)) or 'ids'} would answer "
            f"some {n_queries * k * hit_bytes >> 20} MiB; ask for fewer queries a call, a smaller "
            "k, or fewer fields",
            field="queries",
        )


def _hit_bytes(fields: frozenset[str]) -> int:
    return _BARE_HIT_BYTES + sum(_HIT_BYTES[name] for name in fields)


def max_queries(k: int, fields: frozenset[str]) -> int:
    """How many queries of that k one request may have, by the size of its answer."""
    return min(MAX_QUERIES, MAX_ANSWER_BYTES // (k * _hit_bytes(fields)), MAX_FETCHED // k)


def _texts(
    request: pb.SearchRequest, index: IndexVersion
) -> tuple[tuple[str, ...], tuple[int, ...]]:
    places = tuple(i for i, q in enumerate(request.queries) if q.WhichOneof("input") != "vector")
    texts = tuple(request.queries[i].text for i in places)
    for place, text in zip(places, texts, strict=True):
        check_text(text, f"queries[{place}].text")
    if texts and not index.question_fingerprint:
        raise FailedPreconditionError(
            f"index {index.name} holds bare vectors and has no encoder; send vectors"
        )
    return texts, places


def check_text(text: str, field: str) -> None:
    """Refuses what no encoder is asked. Raises InvalidArgumentError, naming `field`."""
    if not text.strip():
        raise InvalidArgumentError(f"{field} is empty; send a question or a vector", field=field)
    if len(text) > MAX_TEXT_BYTES // 4 and len(text.encode()) > MAX_TEXT_BYTES:
        raise InvalidArgumentError(
            f"{field} has {len(text.encode()):,} bytes, at most {MAX_TEXT_BYTES:,} are read",
            field=field,
        )


def _vectors(request: pb.SearchRequest, index: IndexVersion) -> tuple[Matrix, tuple[int, ...]]:
    places = tuple(i for i, q in enumerate(request.queries) if q.WhichOneof("input") == "vector")
    if not places:
        return np.empty((0, index.dim), dtype=np.float32), ()
    messages = [request.queries[i].vector for i in places]
    fields = [f"queries[{i}].vector" for i in places]
    return vectors.rows_from_proto(messages, index.dim, fields), places


def _check_range(
    field: str, value: float, least: float, most: float, *, unit: str = "", why: str = ""
) -> None:
    if not least <= value <= most:
        raise InvalidArgumentError(
            f"{field} is {value:g}{unit}; it must be {least:g} to {most:g}{why}", field=field
        )
