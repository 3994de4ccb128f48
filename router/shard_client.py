"""Talks to one shard server: jobs to messages, calls within a time limit, failures to errors."""

import itertools
from collections.abc import Sequence

import grpc
import numpy as np
from google.protobuf.field_mask_pb2 import FieldMask

from router.passages import Fetched, PassageJob
from router.shard_description import index_version
from router.shard_reply import (
    InvalidReplyError,
    SearchSettings,
    ShardReply,
    passage_columns,
    split_reply,
)
from router.topology import IndexVersion
from shoal import vectors
from shoal.contract import EncoderContract, from_proto
from shoal.credentials import NO_CREDENTIALS, Credentials
from shoal.internal.v1 import shard_pb2 as pb
from shoal.internal.v1 import shard_pb2_grpc
from shoal.rpc.channel import open_channel
from shoal.rpc.status import error_of
from shoal.tracing.shared import shared_call
from shoal.tracing.spans import Span
from shoal.vectors import Matrix

_SERVICE = pb.DESCRIPTOR.services_by_name["ShardService"].full_name
_SEARCH, _PASSAGES = f"{_SERVICE}/SearchShard", f"{_SERVICE}/GetPassages"


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
        return split_reply(reply, settings, [len(matrix) for matrix in query_vectors])

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
        columns = passage_columns(reply.passages, sum(sizes), settings.fields)
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
