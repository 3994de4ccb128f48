"""ShardService: convert, call, convert. Decides nothing about a search; the router does.

Knows the wire and the parts it calls; neither faiss nor the disk.
"""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import grpc

from shard_server import wire
from shard_server.admission import search_cost, search_gate
from shard_server.config import ShardConfig
from shard_server.hits import Places, ShardHits
from shard_server.index import ShardIndex
from shard_server.limits import check_search
from shard_server.passages import Columns, check_fields, read_passages
from shard_server.search_thread import SearchThread
from shard_server.source import open_source
from shard_server.traces import tell_search
from shard_server.version_gauges import tell_versions
from shard_server.versions import Versions
from shoal import __version__, vectors
from shoal.errors import OverloadedError
from shoal.internal.v1 import shard_pb2 as pb
from shoal.internal.v1 import shard_pb2_grpc
from shoal.rpc import metrics
from shoal.rpc.deadline import Deadline
from shoal.rpc.gpu_memory import watch_gpu
from shoal.tracing.spans import current_trace
from shoal.v1 import priority_pb2

Context = grpc.aio.ServicerContext[Any, Any]

FEATURES = ("inline_passages",)

_FEW_PASSAGES = 1_024
"""Passages read by the search thread itself, in some 30 us: less than handing them to another."""


class ShardServicer(shard_pb2_grpc.ShardServiceServicer):
    """Serves one shard of one index. `start` opens the first version, `stop` closes all."""

    def __init__(self, config: ShardConfig) -> None:
        self._config = config
        self._gate = search_gate(wait_s=config.max_wait_s, max_queued=config.max_queued)
        self._thread = SearchThread(
            max_queued=config.max_queued, wait_s=lambda: self._gate.load.wait_s
        )
        # Mapped passages may have to come from the disk: that must hold up neither loop nor search.
        self._readers = ThreadPoolExecutor(max_workers=2, thread_name_prefix="passages")
        self._versions = Versions(
            open_source(str(config.index), config.cache_dir, verify=config.verify),
            config.shard,
            device=config.device,
            gpu_temp_bytes=config.gpu_temp_mib << 20,
            thread=self._thread,
        )
        self._batch_size = metrics.BATCH_SIZE.labels("shard")
        self._refused = metrics.refused_by("shard")

    async def start(self) -> None:
        """Open the configured version. Raises what should end the process."""
        index = await self._versions.open_first(self._config.version)
        tell_versions(self._versions, index.manifest.name)
        watch_gpu(index.device)

    async def stop(self) -> None:
        """Close everything, after the last call."""
        await self._versions.close()
        await self._thread.close()
        self._readers.shutdown(wait=False, cancel_futures=True)

    async def SearchShard(
        self, request: pb.SearchShardRequest, context: Context
    ) -> pb.SearchShardResponse:
        """The shard's best hits for a batch of vectors."""
        deadline = Deadline.of(context)
        with self._versions.hold(request.index, request.version) as index:
            parameters = wire.to_parameters(request)
            query_vectors = vectors.from_proto(request.query_vectors, "query_vectors")
            manifest = index.manifest
            check_search(parameters, query_vectors, dim=manifest.dim, n_lists=manifest.n_lists)
            fields = check_fields(request.inline_fields.paths, "inline_fields")
            self._batch_size.observe(len(query_vectors))
            inline = request.HasField("inline_fields")
            bulk = request.priority == priority_pb2.PRIORITY_BULK
            trace = current_trace()
            scanned_s = [0.0]

            def search(is_wanted: Callable[[], bool]) -> tuple[ShardHits, Columns | None]:
                hits = index.search(query_vectors, parameters, is_wanted, in_steps=bulk)
                if trace is not None:
                    scanned_s[0] = time.monotonic()
                if not inline or hits.ordinals.size > _FEW_PASSAGES:
                    return hits, None
                return hits, read_passages(index.passages, *hits.places(), fields)

            n_live = manifest.n_live // len(manifest.shards)
            cost = search_cost(parameters, n_queries=len(query_vectors), n_live=n_live)
            try:
                with self._gate.admit(cost, is_bulk=bulk, deadline_s=deadline.at_s):
                    done = await self._thread.search(
                        search, n_queries=len(query_vectors), deadline=deadline, bulk=bulk
                    )
            except OverloadedError:
                self._refused[bulk].inc(len(query_vectors))
                raise
            hits, passages = done.value
            if trace is not None:
                trace.root.say(shard=self._config.shard, version=request.version)
                tell_search(
                    trace, done, parameters, n_queries=len(query_vectors),
                    scanned_s=scanned_s[0], passages_came=passages is not None,
                )  # fmt: skip
            if inline and passages is None:
                passages = await self._read(index, *hits.places(), fields, deadline)
        return wire.search_response(
            manifest.version,
            hits,
            passages,
            queue_ms=done.queue_ms,
            search_ms=done.work_ms,
        )

    async def GetPassages(
        self, request: pb.GetPassagesRequest, context: Context
    ) -> pb.GetPassagesResponse:
        """Passages by their place."""
        with self._versions.hold(request.index, request.version) as index:
            segments, rows = wire.to_places(request)
            fields = check_fields(request.fields.paths, "fields")
            columns = await self._read(index, segments, rows, fields, Deadline.of(context))
        return pb.GetPassagesResponse(
            version=request.version, passages=wire.passage_columns(columns)
        )

    async def GetShard(
        self,
        request: pb.GetShardRequest,
        context: Context,  # noqa: ARG002 -- gRPC passes it
    ) -> pb.GetShardResponse:
        """What the shard serves."""
        return wire.shard_response(
            self._versions.open_indexes,
            shard=self._config.shard,
            release=__version__,
            features=FEATURES,
            with_probes=request.with_probes,
        )

    async def LoadVersion(
        self, request: pb.LoadVersionRequest, context: Context
    ) -> pb.LoadVersionResponse:
        """Open another version beside the one that serves."""
        async with asyncio.timeout(Deadline.of(context).remaining_s()):
            index = await self._versions.load(request.index, request.version)
        return pb.LoadVersionResponse(version=wire.shard_version(index))

    async def ReleaseVersion(
        self, request: pb.ReleaseVersionRequest, context: Context
    ) -> pb.ReleaseVersionResponse:
        """Close a version once its last search is done."""
        async with asyncio.timeout(Deadline.of(context).remaining_s()):
            await self._versions.release(request.index, request.version)
        return pb.ReleaseVersionResponse()

    async def _read(
        self,
        index: ShardIndex,
        segments: Places,
        rows: Places,
        fields: tuple[str, ...],
        deadline: Deadline,
    ) -> Columns:
        work = partial(read_passages, index.passages, segments, rows, fields)
        loop = asyncio.get_running_loop()
        trace = current_trace()
        stage = None if trace is None else trace.root.open("passages", time.monotonic())
        async with asyncio.timeout(deadline.remaining_s()):
            columns = await loop.run_in_executor(self._readers, work)
        if stage is not None:
            stage.end_s = time.monotonic()
        return columns
