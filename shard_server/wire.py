"""Requests in, replies out: what of the shard's protobuf becomes arrays, and back.

Rule: columns are read and written whole; no Python per hit. Only this module and the service know
protobuf; neither awaits nor decides here.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime

import numpy as np
from google.protobuf.timestamp_pb2 import Timestamp

from shard_server.hits import Places, ShardHits
from shard_server.index import ShardIndex
from shard_server.limits import MAX_PLACES, SearchParameters
from shard_server.passages import Columns
from shoal import contract
from shoal.errors import InvalidArgumentError
from shoal.formats.manifest import Manifest
from shoal.formats.passages import MetadataValue, TextColumn
from shoal.internal.v1 import shard_pb2 as pb
from shoal.v1 import encoder_pb2
from shoal.v1 import search_pb2 as v1

_SCORE_KINDS = {
    "inner_product": v1.SCORE_KIND_INNER_PRODUCT,
    "l2": v1.SCORE_KIND_NEGATIVE_SQUARED_L2,
}


def to_parameters(request: pb.SearchShardRequest) -> SearchParameters:
    """How to search."""
    return SearchParameters(
        k=request.k,
        n_probe=request.n_probe,
        candidates=request.candidates,
        exact=request.exact,
    )


def to_places(request: pb.GetPassagesRequest) -> tuple[Places, Places]:
    """Segments and rows, uint32 (n,). Raises InvalidArgumentError for sizes that do not fit."""
    if len(request.segments) % 4 or len(request.segments) != len(request.rows):
        raise InvalidArgumentError(
            f"rows has {len(request.rows)} bytes, segments {len(request.segments)}; "
            "both are uint32 and as many",
            field="rows",
        )
    segments = np.frombuffer(request.segments, dtype="<u4")
    if not 1 <= len(segments) <= MAX_PLACES:
        raise InvalidArgumentError(
            f"rows has {len(segments)} places; a call takes 1 to {MAX_PLACES}", field="rows"
        )
    return segments, np.frombuffer(request.rows, dtype="<u4")


def search_response(
    version: int, hits: ShardHits, passages: Columns | None, *, queue_ms: float, search_ms: float
) -> pb.SearchShardResponse:
    """The reply to SearchShard."""
    n_queries, width = hits.scores.shape
    return pb.SearchShardResponse(
        version=version,
        n_queries=n_queries,
        width=width,
        ordinals=hits.ordinals.astype("<i8", copy=False).tobytes(),
        segments=hits.segments.astype("<u4", copy=False).tobytes(),
        rows=hits.rows.astype("<u4", copy=False).tobytes(),
        scores=hits.scores.astype("<f4", copy=False).tobytes(),
        accuracy=v1.ACCURACY_EXACT if hits.exact else v1.ACCURACY_APPROXIMATE,
        passages=None if passages is None else passage_columns(passages),
        queue_ms=queue_ms,
        search_ms=search_ms,
    )


def passage_columns(columns: Columns) -> pb.PassageColumns:
    """Passages on the wire."""
    return pb.PassageColumns(
        ids=_text_column(columns.texts.get("id")),
        titles=_text_column(columns.texts.get("title")),
        texts=_text_column(columns.texts.get("text")),
        metadata=[_metadata(values) for values in columns.metadata or ()],
    )


def shard_version(index: ShardIndex, *, with_probes: bool = False) -> pb.ShardVersion:
    """What a router must know of an open version; the question tower's probes where asked for."""
    manifest = index.manifest
    return pb.ShardVersion(
        version=manifest.version,
        n_live_by_shard=[shard.n_live for shard in manifest.shards],
        dim=manifest.dim,
        recipe=manifest.recipe,
        score_kind=_SCORE_KINDS[manifest.metric],
        n_lists=manifest.n_lists,
        default_n_probe=manifest.default_n_probe,
        default_oversample=manifest.default_oversample,
        next_ordinal=manifest.next_ordinal,
        contract=_contract(manifest, with_probes=with_probes),
        encoder_model="" if manifest.encoder is None else manifest.encoder.model,
        operating_points=[
            v1.OperatingPoint(**point.model_dump()) for point in manifest.operating_points
        ],
        create_time=_created_at(manifest),
    )


def _contract(manifest: Manifest, *, with_probes: bool) -> encoder_pb2.EncoderContract | None:
    if manifest.encoder is None:
        return None
    message = contract.to_proto(manifest.encoder, probes=with_probes)
    for unwanted in ("probe_texts", "probe_vectors"):  # passages are encoded offline
        message.passage.ClearField(unwanted)
    return message


def shard_response(
    indexes: Sequence[ShardIndex],
    *,
    shard: int,
    release: str,
    features: Sequence[str],
    with_probes: bool,
) -> pb.GetShardResponse:
    """The reply to GetShard; without name and device while nothing is open yet."""
    return pb.GetShardResponse(
        index=indexes[0].manifest.name if indexes else "",
        shard=shard,
        versions=[shard_version(index, with_probes=with_probes) for index in indexes],
        device=indexes[0].device if indexes else "",
        release=release,
        features=features,
    )


def _created_at(manifest: Manifest) -> Timestamp:
    moment = Timestamp()
    moment.FromDatetime(datetime.fromisoformat(manifest.created_at))
    return moment


def _text_column(column: TextColumn | None) -> pb.TextColumn | None:
    if column is None:
        return None
    return pb.TextColumn(
        data=column.data, offsets=column.offsets.astype("<u4", copy=False).tobytes()
    )


def _metadata(values: Mapping[str, MetadataValue]) -> pb.Metadata:
    return pb.Metadata(values={name: _value(value) for name, value in values.items()})


def _value(value: MetadataValue) -> v1.Value:
    match value:
        case bool():  # before int, which it is too
            return v1.Value(bool_value=value)
        case int():
            return v1.Value(int_value=value)
        case float():
            return v1.Value(double_value=value)
        case str():
            return v1.Value(string_value=value)
        case _:
            return v1.Value(string_list_value=v1.StringList(values=value))
