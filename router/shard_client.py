"""Talks to one shard server: jobs to messages, messages to values. The wire ends here.

A reply that breaks the contract (sizes that disagree, scores out of order, NaN) is refused as
InvalidReplyError, so that it can never be merged.
"""

import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import grpc
import numpy as np
import numpy.typing as npt
from google.protobuf.field_mask_pb2 import FieldMask

from router.merge import ShardHits
from router.passages import Fetched, PassageColumns, PassageJob, TextColumn
from router.shard_description import index_version
from router.topology import IndexVersion
from shoal import vectors
from shoal.contract import EncoderContract, from_proto
from shoal.credentials import NO_CREDENTIALS, Credentials
from shoal.errors import ShoalError
from shoal.internal.v1 import shard_pb2 as pb
from shoal.internal.v1 import shard_pb2_grpc
from shoal.rpc.channel import open_channel
from shoal.rpc.status import error_of
from shoal.tracing.shared import shared_call
from shoal.tracing.spans import Span
from shoal.v1 import search_pb2
from shoal.vectors import Matrix

_SERVICE = pb.DESCRIPTOR.services_by_name["ShardService"].full_name
_SEARCH, _PASSAGES = f"{_SERVICE}/SearchShard", f"{_SERVICE}/GetPassages"


class InvalidReplyError(ShoalError):
    """A shard's reply broke the contract."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchSettings:
    """What every query of a shared call agrees in.

    `next_ordinal`: ordinals from here on are no passages of the version; 0 where that isn't known.
    """

    index: str
    version: int
    k: int
    n_probe: int
    candidates: int
    exact: bool
    priority: int
    fields: frozenset[str]
    next_ordinal: int = 0


class ShardReply(NamedTuple):
    """One job's share of a shard's answer.

    `passages`, where they came along, are those of the whole call's hits; query i of this job has
    its own from `first_hits[i]` on, best first. `arrived_s` is on `time.monotonic()`;
    `search_s` is how long the shard searched for the whole call, by its own word.
    """

    hits: ShardHits
    is_exact: bool
    arrived_s: float
    passages: PassageColumns | None
    first_hits: npt.NDArray[np.int64]
    search_s: float = 0.0


class ShardClient:
    """One shard server."""

    def __init__(
        self, address: str, *, inline_hits: int, credentials: Credentials = NO_CREDENTIALS
    ) -> None:
        """`inline_hits`: queries x k up to which passages come along with the hits."""
        self.address = address
        self._inline_hits = inline_hits
        self._metadata = credentials.metadata
        self._channel = open_channel(address, credentials)
        self._stub = shard_pb2_grpc.ShardServiceStub(self._channel)

    async def search(
        self,
        settings: SearchSettings,
        query_vectors: Sequence[Matrix],
        timeout_s: float,
        spans: Sequence[Span] = (),
    ) -> list[ShardReply]:
        """One reply for each (n_i, dim) matrix of `query_vectors`, from one call.

        `spans` are those of the requests in it that are traced.

        Raises:
            ShoalError: the call's failure.
            InvalidReplyError: a reply that can't be true.
        """
        n_queries = sum(map(len, query_vectors))
        request = pb.SearchShardRequest(
            index=settings.index,
            version=settings.version,
            query_vectors=vectors.to_proto(np.concatenate(query_vectors)),
            k=settings.k,
            n_probe=settings.n_probe,
            candidates=settings.candidates,
            exact=settings.exact,
            priority=settings.priority,  # type: ignore[arg-type]
        )
        if n_queries * settings.k <= self._inline_hits or not settings.fields:
            request.inline_fields.paths.extend(["id", *sorted(settings.fields)])
        try:
            with shared_call(_SEARCH, self.address, spans, n_queries) as traced:
                reply = await self._stub.SearchShard(
                    request, timeout=timeout_s, metadata=(*self._metadata, *traced)
                )
        except grpc.RpcError as failure:
            raise error_of(failure) from failure
        return _split(reply, settings, [len(matrix) for matrix in query_vectors])

    async def passages(
        self,
        settings: SearchSettings,
        jobs: Sequence[PassageJob],
        timeout_s: float,
        spans: Sequence[Span] = (),
    ) -> list[Fetched]:
        """The passages of each job, from one call; errors as `search`."""
        request = pb.GetPassagesRequest(
            index=settings.index,
            version=settings.version,
            segments=np.concatenate([job.segments for job in jobs]).astype("<u4").tobytes(),
            rows=np.concatenate([job.rows for job in jobs]).astype("<u4").tobytes(),
            fields=FieldMask(paths=["id", *sorted(settings.fields)]),
        )
        sizes = [len(job.rows) for job in jobs]
        try:
            with shared_call(_PASSAGES, self.address, spans, sum(sizes)) as traced:
                reply = await self._stub.GetPassages(
                    request, timeout=timeout_s, metadata=(*self._metadata, *traced)
                )
        except grpc.RpcError as failure:
            raise error_of(failure) from failure
        if reply.version != settings.version:
            raise InvalidReplyError(f"version {reply.version} instead of {settings.version}")
        columns = _columns(reply.passages, sum(sizes), settings.fields)
        starts = itertools.accumulate(sizes[:-1], initial=0)
        return [Fetched(columns=columns, start=start) for start in starts]

    async def describe(self, timeout_s: float) -> tuple[int, dict[int, IndexVersion]]:
        """The shard's number and the versions that it has open. Raises ShoalError."""
        try:
            reply = await self._stub.GetShard(
                pb.GetShardRequest(), timeout=timeout_s, metadata=self._metadata
            )
        except grpc.RpcError as failure:
            raise error_of(failure) from failure
        return reply.shard, {v.version: index_version(reply.index, v) for v in reply.versions}

    async def load_version(self, index: str, version: int, timeout_s: float) -> IndexVersion:
        """Opens a version beside those that are open; what it is. Raises ShoalError."""
        request = pb.LoadVersionRequest(index=index, version=version)
        try:
            reply = await self._stub.LoadVersion(
                request, timeout=timeout_s, metadata=self._metadata
            )
        except grpc.RpcError as failure:
            raise error_of(failure) from failure
        if reply.version.version != version:
            raise InvalidReplyError(f"opened version {reply.version.version} instead of {version}")
        return index_version(index, reply.version)

    async def release_version(self, index: str, version: int, timeout_s: float) -> None:
        """Closes a version once its last search is done. Raises ShoalError."""
        request = pb.ReleaseVersionRequest(index=index, version=version)
        try:
            await self._stub.ReleaseVersion(request, timeout=timeout_s, metadata=self._metadata)
        except grpc.RpcError as failure:
            raise error_of(failure) from failure

    async def contracts(self, timeout_s: float) -> list[EncoderContract]:
        """What each open version recorded of its encoder, with the probes. Raises ShoalError."""
        try:
            request = pb.GetShardRequest(with_probes=True)
            reply = await self._stub.GetShard(request, timeout=timeout_s, metadata=self._metadata)
        except grpc.RpcError as failure:
            raise error_of(failure) from failure
        return [
            from_proto(version.contract, version.encoder_model)
            for version in reply.versions
            if version.HasField("contract")
        ]

    async def close(self) -> None:
        """Closes the connection."""
        await self._channel.close()


def _split(
    reply: pb.SearchShardResponse, settings: SearchSettings, sizes: Sequence[int]
) -> list[ShardReply]:
    hits = _checked_hits(reply, settings, sum(sizes))
    is_exact = reply.accuracy == search_pb2.ACCURACY_EXACT
    columns: PassageColumns | None = None
    n_hits = np.count_nonzero(hits.ordinals >= 0, axis=1)
    first_hits = np.cumsum(n_hits) - n_hits
    if reply.HasField("passages"):
        columns = _columns(reply.passages, int(n_hits.sum()), settings.fields)
    arrived_s = time.monotonic()
    starts = itertools.accumulate(sizes[:-1], initial=0)
    return [
        ShardReply(
            hits=ShardHits(
                ordinals=hits.ordinals[start : start + size],
                segments=hits.segments[start : start + size],
                rows=hits.rows[start : start + size],
                scores=hits.scores[start : start + size],
            ),
            is_exact=is_exact,
            arrived_s=arrived_s,
            passages=columns,
            first_hits=first_hits[start : start + size],
            search_s=reply.search_ms / 1e3,
        )
        for start, size in zip(starts, sizes, strict=True)
    ]


def _checked_hits(
    reply: pb.SearchShardResponse, settings: SearchSettings, n_queries: int
) -> ShardHits:
    if reply.version != settings.version:
        raise InvalidReplyError(f"version {reply.version} instead of {settings.version}")
    if reply.n_queries != n_queries or reply.width > settings.k:
        raise InvalidReplyError(
            f"{reply.n_queries} x {reply.width} hits for {n_queries} queries of k={settings.k}"
        )
    shape = (n_queries, reply.width)
    try:
        hits = ShardHits(
            ordinals=np.frombuffer(reply.ordinals, dtype="<i8").reshape(shape),
            segments=np.frombuffer(reply.segments, dtype="<u4").reshape(shape),
            rows=np.frombuffer(reply.rows, dtype="<u4").reshape(shape),
            scores=np.frombuffer(reply.scores, dtype="<f4").reshape(shape),
        )
    except ValueError as failure:
        raise InvalidReplyError(f"columns that are not {shape[0]} x {shape[1]}") from failure
    present = hits.ordinals >= 0
    if not np.isfinite(hits.scores[present]).all():
        raise InvalidReplyError("scores that are not finite")
    falling = hits.scores[:, :-1] >= hits.scores[:, 1:]
    if not (falling | ~present[:, 1:]).all() or (present[:, 1:] & ~present[:, :-1]).any():
        raise InvalidReplyError("hits that are not in order")
    if settings.next_ordinal and (hits.ordinals >= settings.next_ordinal).any():
        raise InvalidReplyError(f"a passage that version {settings.version} does not have")
    ordered = np.sort(hits.ordinals, axis=1)
    if ((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)).any():
        raise InvalidReplyError("the same passage twice for one query")
    return hits


def _columns(message: pb.PassageColumns, n_passages: int, fields: frozenset[str]) -> PassageColumns:
    if "title" in fields and not message.HasField("titles"):
        raise InvalidReplyError("passages without titles")
    if "text" in fields and not message.HasField("texts"):
        raise InvalidReplyError("passages without texts")
    if message.metadata and len(message.metadata) != n_passages:
        raise InvalidReplyError(f"metadata of {len(message.metadata)} passages for {n_passages}")
    return PassageColumns(
        ids=_text_column(message.ids, n_passages),
        titles=_text_column(message.titles, n_passages) if message.HasField("titles") else None,
        texts=_text_column(message.texts, n_passages) if message.HasField("texts") else None,
        metadata=message.metadata,
    )


def _text_column(message: pb.TextColumn, n_texts: int) -> TextColumn:
    if len(message.offsets) != 4 * (n_texts + 1):
        raise InvalidReplyError(f"{len(message.offsets)} bytes of offsets for {n_texts} texts")
    offsets = np.frombuffer(message.offsets, dtype="<u4")
    if offsets[-1] > len(message.data) or (offsets[1:] < offsets[:-1]).any():
        raise InvalidReplyError("text offsets that are not in order")
    return TextColumn(data=message.data, offsets=offsets.tolist())
