"""Every RPC of every service: what it may answer to a request, good ones to begin from, and what
an answer must be.

The codes are those that a request alone may cause at a healthy server with nothing else to do, as
the comments in protos/ promise them: so UNAVAILABLE, RESOURCE_EXHAUSTED and DEADLINE_EXCEEDED,
which they promise as well, are faults here. INVALID_ARGUMENT is every RPC's: for bytes that are no
message and for fields that the release doesn't know.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import grpc
import numpy as np
from fakes.cluster import text_request, vector_request
from fakes.corpus import DIM
from fuzz import tiny
from google.protobuf.message import Message

from shoal import vectors
from shoal.internal.v1 import admin_pb2, shard_pb2
from shoal.v1 import encoder_pb2, search_pb2

_Code = grpc.StatusCode
OK, INVALID = _Code.OK, _Code.INVALID_ARGUMENT
NOT_FOUND, PRECONDITION = _Code.NOT_FOUND, _Code.FAILED_PRECONDITION


@dataclass(frozen=True, slots=True, kw_only=True)
class Rpc:
    """One RPC. `check` raises AssertionError for an answer that can't be one to the request."""

    service: str
    name: str
    request: type[Message]
    response: type[Message]
    codes: frozenset[grpc.StatusCode]
    valid: tuple[Message, ...]
    check: Callable[[Any, Any], None]
    item_codes: frozenset[grpc.StatusCode] = frozenset()

    @property
    def method(self) -> str:
        """As it stands on the wire."""
        return f"/{self.service}/{self.name}"

    @property
    def streams(self) -> bool:
        """Whether it answers items."""
        return bool(self.item_codes)


_ONES = np.ones((3, DIM), np.float32)


def _searches() -> tuple[search_pb2.SearchRequest, ...]:
    rich = vector_request(_ONES, k=5, offset=2, min_coverage=0.5, index="books", exact=False)
    rich.MergeFrom(text_request("what is it", "and why?", n_probe=3, oversample=2.0, priority=2))
    rich.fields.paths.extend(["text", "metadata"])
    rich.score_threshold = -1e3
    floats = search_pb2.SearchRequest(k=1, target_recall=0.9)
    floats.queries.add().vector.CopyFrom(search_pb2.Query(vector={
        "n_rows": 1, "dim": DIM, "floats": {"values": [0.5] * DIM}}).vector)  # fmt: skip
    halves = search_pb2.SearchRequest(k=1_000, exact=True)
    halves.queries.add().vector.CopyFrom(vectors.to_proto(_ONES[:1].astype(np.float16)))
    return text_request("what"), rich, floats, halves


def _check_search(request: search_pb2.SearchRequest, answer: search_pb2.SearchResponse) -> None:
    assert len(answer.results) == len(request.queries)
    assert answer.coverage >= (request.min_coverage if request.HasField("min_coverage") else 1.0)
    # an item with a millisecond's limit may have shards that were late, and nothing else
    outcomes = {shard.outcome for shard in answer.shards}
    assert (outcomes == {search_pb2.OUTCOME_OK}) == (answer.coverage == 1.0)
    assert outcomes <= {search_pb2.OUTCOME_OK, search_pb2.OUTCOME_LATE}
    assert answer.version
    assert answer.request_id
    k = request.k if request.HasField("k") else 10
    for result in answer.results:
        assert len(result.hits) <= k
        order = [(-hit.score, hit.ordinal) for hit in result.hits]
        assert np.isfinite([hit.score for hit in result.hits]).all()
        assert order == sorted(set(order)), "not by score and ordinal, or one twice"
        assert all(hit.passage.id for hit in result.hits)
        if request.HasField("score_threshold"):
            assert all(hit.score >= request.score_threshold for hit in result.hits)
        if request.HasField("fields"):
            for name in {"title", "text", "metadata"} - set(request.fields.paths):
                assert not any(getattr(hit.passage, name) for hit in result.hits), name


def _check_item(
    request: search_pb2.StreamSearchRequest, answer: search_pb2.StreamSearchResponse
) -> None:
    if answer.WhichOneof("outcome") == "response":
        assert 1 <= len(request.item_id.encode()) <= 128
        _check_search(request.request, answer.response)


def _check_index(request: Any, answer: search_pb2.GetIndexResponse) -> None:
    assert answer.index.name in {"books"} & {request.index or "books"}
    assert answer.index.coverage == 1.0


def _check_indexes(request: Any, answer: search_pb2.ListIndexesResponse) -> None:
    assert [index.name for index in answer.indexes] == ["books"]


def _check_encoded(request: encoder_pb2.EncodeRequest, answer: encoder_pb2.EncodeResponse) -> None:
    matrix = vectors.from_proto(answer.vectors, "vectors")
    assert matrix.shape == (len(request.texts), DIM)
    assert len(answer.truncated) == len(request.texts)
    assert answer.fingerprint == tiny.CONTRACT.question.fingerprint
    assert request.expected_fingerprint in {"", answer.fingerprint}


def _check_encoder(request: Any, answer: encoder_pb2.GetEncoderResponse) -> None:
    assert answer.contract.question.dim == DIM


def _check_hits(
    request: shard_pb2.SearchShardRequest, answer: shard_pb2.SearchShardResponse
) -> None:
    shape = (answer.n_queries, answer.width)
    assert (answer.version, answer.n_queries) == (request.version, request.query_vectors.n_rows)
    assert answer.width <= request.k
    ordinals = np.frombuffer(answer.ordinals, "<i8").reshape(shape)
    scores = np.frombuffer(answer.scores, "<f4").reshape(shape)
    for name in ("segments", "rows"):
        np.frombuffer(getattr(answer, name), "<u4").reshape(shape)
    is_hit = ordinals >= 0
    assert np.isfinite(scores[is_hit]).all()
    for row, mine in enumerate(is_hit):
        order = list(zip(-scores[row][mine], ordinals[row][mine], strict=True))
        assert order == sorted(set(order)), "not by score and ordinal, or one twice"
        assert not mine[mine.sum() :].any(), "a hit behind a filler"
    if request.HasField("inline_fields") and "id" in request.inline_fields.paths:
        assert len(answer.passages.ids.offsets) == 4 * (int(is_hit.sum()) + 1)


def _check_passages(
    request: shard_pb2.GetPassagesRequest, answer: shard_pb2.GetPassagesResponse
) -> None:
    for name, column in (("id", "ids"), ("title", "titles"), ("text", "texts")):
        assert answer.passages.HasField(column) == (name in request.fields.paths)
        if answer.passages.HasField(column):
            texts = getattr(answer.passages, column)
            offsets = np.frombuffer(texts.offsets, "<u4").astype(np.int64)
            assert len(offsets) == len(request.rows) // 4 + 1
            assert (np.diff(offsets) >= 0).all()
            assert offsets[-1] == len(texts.data)


def _check_shard(request: Any, answer: shard_pb2.GetShardResponse) -> None:
    assert answer.index == tiny.NAME
    assert answer.versions


def _check_version(request: Any, answer: Any) -> None:
    told = answer.version if isinstance(answer.version, int) else answer.version.version
    assert told == request.version


def _check_topology(request: Any, answer: admin_pb2.GetTopologyResponse) -> None:
    assert [len(index.shards) for index in answer.indexes] == [2]


def _check_announced(
    request: admin_pb2.AnnounceRequest, answer: admin_pb2.AnnounceResponse
) -> None:
    assert request.address
    lease_ms = request.lease_ms if request.HasField("lease_ms") else 3_000
    assert answer.renew_ms == min(1_000, lease_ms // 3)
    if not request.leaving:
        assert request.WhichOneof("role")
        assert 100 <= lease_ms <= 60_000
    if request.WhichOneof("role") == "shard" and not request.leaving:
        assert request.shard.shard < request.shard.n_shards
        assert request.shard.version


def _nothing(request: Any, answer: Any) -> None:
    """The answer is empty."""


def _shard_searches() -> tuple[shard_pb2.SearchShardRequest, ...]:
    common = {"index": tiny.NAME, "version": 2, "query_vectors": vectors.to_proto(_ONES)}
    inline = shard_pb2.SearchShardRequest(k=1_000, exact=True, **common)
    inline.inline_fields.paths.extend(["id", "text", "metadata"])
    return (
        shard_pb2.SearchShardRequest(k=5, n_probe=4, candidates=50, **common),
        shard_pb2.SearchShardRequest(k=200, n_probe=2_048, **common),
        inline,
    )


def _places() -> tuple[shard_pb2.GetPassagesRequest, ...]:
    rows = np.arange(9, dtype="<u4").tobytes()
    first = shard_pb2.GetPassagesRequest(index=tiny.NAME, version=2, segments=bytes(36), rows=rows)
    first.fields.paths.extend(["id", "title", "text", "metadata"])
    both = shard_pb2.GetPassagesRequest(version=2, rows=bytes(16))
    both.segments = np.array([0, 1, 0, 1], "<u4").tobytes()
    both.fields.paths.append("text")
    return first, both


def _announcements() -> tuple[admin_pb2.AnnounceRequest, ...]:
    shard = {"index": "books", "shard": 1, "n_shards": 2, "version": 1}
    return (
        admin_pb2.AnnounceRequest(address="127.0.0.1:1", shard=shard),
        admin_pb2.AnnounceRequest(address="[::1]:2", lease_ms=100, encoder={}),
        admin_pb2.AnnounceRequest(address="127.0.0.1:1", leaving=True),
    )


_ENCODES = (
    encoder_pb2.EncodeRequest(texts=["a", "two words"], role=1),
    encoder_pb2.EncodeRequest(texts=["b"] * 3, titles=["x", "", "y"], role=2, priority=2),
    encoder_pb2.EncodeRequest(texts=["c"], expected_fingerprint="7" * 64, priority=1),
)


def _rpc(file: Any, service: str, name: str, codes: set[grpc.StatusCode], *valid: Message,
         check: Callable[[Any, Any], None], **more: Any) -> Rpc:  # fmt: skip
    response = getattr(file, f"{name}Response")
    full_name = file.DESCRIPTOR.services_by_name[service].full_name
    allowed = frozenset({OK, INVALID, *codes})
    return Rpc(service=full_name, name=name, request=type(valid[0]), response=response,
               codes=allowed, valid=valid, check=check, **more)  # fmt: skip


_SEARCH_CODES = {NOT_FOUND, PRECONDITION, _Code.UNIMPLEMENTED}

HURRIED = frozenset({_Code.DEADLINE_EXCEEDED, _Code.UNAVAILABLE})
"""What an item may get besides that names a time limit of seconds: nothing, or too little."""

RPCS = (
    _rpc(search_pb2, "SearchService", "Search", _SEARCH_CODES, *_searches(), check=_check_search),
    _rpc(search_pb2, "SearchService", "StreamSearch", set(),
         *(search_pb2.StreamSearchRequest(item_id=f"item {i}", request=search, timeout_ms=50_000)
           for i, search in enumerate(_searches())), check=_check_item,
         item_codes=frozenset({INVALID, *_SEARCH_CODES})),
    _rpc(search_pb2, "SearchService", "ListIndexes", set(), search_pb2.ListIndexesRequest(),
         check=_check_indexes),
    _rpc(search_pb2, "SearchService", "GetIndex", {NOT_FOUND}, search_pb2.GetIndexRequest(),
         search_pb2.GetIndexRequest(index="books"), check=_check_index),
    _rpc(encoder_pb2, "EncoderService", "Encode", {PRECONDITION}, *_ENCODES, check=_check_encoded),
    _rpc(encoder_pb2, "EncoderService", "GetEncoder", set(), encoder_pb2.GetEncoderRequest(),
         check=_check_encoder),
    _rpc(shard_pb2, "ShardService", "SearchShard", {NOT_FOUND, PRECONDITION}, *_shard_searches(),
         check=_check_hits),
    _rpc(shard_pb2, "ShardService", "GetPassages", {NOT_FOUND, PRECONDITION}, *_places(),
         check=_check_passages),
    _rpc(shard_pb2, "ShardService", "GetShard", set(), shard_pb2.GetShardRequest(with_probes=True),
         check=_check_shard),
    _rpc(shard_pb2, "ShardService", "LoadVersion", {NOT_FOUND, PRECONDITION},
         shard_pb2.LoadVersionRequest(index=tiny.NAME, version=2),
         shard_pb2.LoadVersionRequest(version=1), check=_check_version),
    _rpc(shard_pb2, "ShardService", "ReleaseVersion", {NOT_FOUND, PRECONDITION},
         shard_pb2.ReleaseVersionRequest(index=tiny.NAME, version=1),
         shard_pb2.ReleaseVersionRequest(version=9), check=_nothing),
    _rpc(admin_pb2, "AdminService", "GetTopology", set(), admin_pb2.GetTopologyRequest(),
         check=_check_topology),
    _rpc(admin_pb2, "AdminService", "ReloadIndex", {NOT_FOUND, PRECONDITION},
         admin_pb2.ReloadIndexRequest(index="books", version=1), check=_check_version),
    _rpc(admin_pb2, "AdminService", "Announce", {PRECONDITION}, *_announcements(),
         check=_check_announced),
)  # fmt: skip
