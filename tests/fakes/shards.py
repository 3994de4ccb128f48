"""A scripted shard server: a real grpc.aio server over an exact search, with faults to order."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

import grpc
import numpy as np
from fakes.corpus import Corpus, vector_of

from shoal import vectors
from shoal.errors import InvalidArgumentError
from shoal.internal.v1 import shard_pb2 as pb
from shoal.internal.v1 import shard_pb2_grpc
from shoal.rpc.interceptor import ShoalInterceptor
from shoal.rpc.limits import server_options
from shoal.v1 import search_pb2

Mutate = Callable[[pb.SearchShardResponse], None]


@dataclass
class Script:
    """What the shard does wrong, and what it saw. Change it between calls."""

    raises: Exception | None = None
    raises_on_passages: Exception | None = None
    mutate: Mutate | None = None
    mutate_passages: Callable[[pb.GetPassagesResponse], None] | None = None
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    """While clear, searches hang."""
    n_searches: int = 0
    n_queries: int = 0
    n_fetches: int = 0
    n_cancelled: int = 0
    n_under_way: int = 0
    most_under_way: int = 0
    largest_batch: int = 0
    last: pb.SearchShardRequest | None = None
    raises_on_load: Exception | None = None
    mutate_loaded: Callable[[pb.ShardVersion], None] | None = None
    load_gate: asyncio.Event = field(default_factory=asyncio.Event)
    """While clear, loading a version hangs."""
    n_loads: int = 0
    describe_gate: asyncio.Event = field(default_factory=asyncio.Event)
    """While clear, checks hang."""
    released: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.gate.set()
        self.load_gate.set()
        self.describe_gate.set()

    def freeze(self) -> None:
        """Answers nothing more, as a stopped process."""
        self.gate.clear()
        self.describe_gate.clear()

    def thaw(self) -> None:
        """Goes on where it was frozen."""
        self.gate.set()
        self.describe_gate.set()


class FakeShard(shard_pb2_grpc.ShardServiceServicer):
    """Serves one shard of a Corpus; segments are the even and the odd rows."""

    def __init__(
        self,
        corpus: Corpus,
        shard: int,
        *,
        name: str = "books",
        version: int = 1,
        fingerprint: str = "",
        recipe: str = "Flat",
        probe_texts: tuple[str, ...] = (),
    ) -> None:
        self.corpus, self.shard, self.name, self.version = corpus, shard, name, version
        self.fingerprint, self.recipe = fingerprint, recipe
        self.loaded: set[int] = set()
        self.probe_texts = probe_texts
        self.n_descriptions = 0
        self.n_probe_requests = 0
        self.raises_on_probes: list[Exception] = []
        """What the first requests for probes end with."""
        self.script = Script()
        self.address = "127.0.0.1:0"

    async def start(self) -> None:
        """Listens, on the same port as before where there was one."""
        self._server = grpc.aio.server(interceptors=(ShoalInterceptor(),), options=server_options())
        shard_pb2_grpc.add_ShardServiceServicer_to_server(self, self._server)
        port = self._server.add_insecure_port(self.address)
        self.address = f"127.0.0.1:{port}"
        await self._server.start()

    async def stop(self) -> None:
        """Dies: calls under way break off."""
        await self._server.stop(None)

    async def SearchShard(self, request, context):
        script = self.script
        script.n_searches += 1
        script.n_queries += request.query_vectors.n_rows
        script.largest_batch = max(script.largest_batch, request.query_vectors.n_rows)
        script.last = request
        script.n_under_way += 1
        script.most_under_way = max(script.most_under_way, script.n_under_way)
        try:
            await script.gate.wait()
        except asyncio.CancelledError:
            script.n_cancelled += 1
            raise
        finally:
            script.n_under_way -= 1
        if script.raises is not None:
            raise script.raises
        assert 1 <= request.query_vectors.n_rows <= 1_024
        reply = self._search(request)
        if script.mutate is not None:
            script.mutate(reply)
        return reply

    def _search(self, request: pb.SearchShardRequest) -> pb.SearchShardResponse:
        asked = np.frombuffer(request.query_vectors.packed, "<f4").reshape(-1, self.corpus.dim)
        mine = self.corpus.ordinals_by_shard[self.shard]
        scores = asked @ self.corpus.vectors[mine].T
        places = np.argsort(-scores, axis=1, kind="stable")[:, : request.k]
        reply = pb.SearchShardResponse(
            version=request.version if request.version in self.loaded else self.version,
            n_queries=len(asked),
            width=places.shape[1],
            ordinals=mine[places].astype("<i8").tobytes(),
            segments=(places % 2).astype("<u4").tobytes(),
            rows=(places // 2).astype("<u4").tobytes(),
            scores=np.take_along_axis(scores, places, axis=1).astype("<f4").tobytes(),
            accuracy=search_pb2.ACCURACY_EXACT,
        )
        if request.HasField("inline_fields"):
            ordinals = mine[places].ravel().tolist()
            reply.passages.CopyFrom(self._columns(ordinals, list(request.inline_fields.paths)))
        return reply

    async def GetPassages(self, request, context):
        self.script.n_fetches += 1
        if self.script.raises_on_passages is not None:
            raise self.script.raises_on_passages
        segments = np.frombuffer(request.segments, "<u4").astype(np.int64)
        assert 1 <= len(segments) <= 65_536
        places = np.frombuffer(request.rows, "<u4").astype(np.int64) * 2 + segments
        ordinals = self.corpus.ordinals_by_shard[self.shard][places].tolist()
        reply = pb.GetPassagesResponse(
            version=self.version, passages=self._columns(ordinals, list(request.fields.paths))
        )
        if self.script.mutate_passages is not None:
            self.script.mutate_passages(reply)
        return reply

    def _columns(self, ordinals: list[int], fields: list[str]) -> pb.PassageColumns:
        corpus = self.corpus
        columns = pb.PassageColumns(ids=_column([corpus.ids[i] for i in ordinals]))
        if "title" in fields:
            columns.titles.CopyFrom(_column([corpus.titles[i] for i in ordinals]))
        if "text" in fields:
            columns.texts.CopyFrom(_column([corpus.texts[i] for i in ordinals]))
        if "metadata" in fields:
            for ordinal in ordinals:
                columns.metadata.add().values["page"].int_value = ordinal
        return columns

    async def LoadVersion(self, request, context):
        self.script.n_loads += 1
        await self.script.load_gate.wait()
        if self.script.raises_on_load is not None:
            raise self.script.raises_on_load
        if request.version != self.version:
            self.loaded.add(request.version)
        version = self._describe(request.version)
        if self.script.mutate_loaded is not None:
            self.script.mutate_loaded(version)
        return pb.LoadVersionResponse(version=version)

    async def ReleaseVersion(self, request, context):
        self.script.released.append(request.version)
        if request.version == self.version and self.loaded:
            self.version = max(self.loaded)
        self.loaded -= {request.version, self.version}
        return pb.ReleaseVersionResponse()

    async def GetShard(self, request, context):
        self.n_descriptions += 1
        await self.script.describe_gate.wait()
        versions = [self._describe(number) for number in sorted({self.version, *self.loaded})]
        if request.with_probes:
            self.n_probe_requests += 1
            if self.raises_on_probes:
                raise self.raises_on_probes.pop(0)
            if not self.probe_texts:
                raise InvalidArgumentError("field 1 is not known to this release")
            for version in versions:
                self._add_probes(version.contract)
        return pb.GetShardResponse(index=self.name, shard=self.shard, versions=versions)

    def _add_probes(self, contract) -> None:
        contract.min_cosine = 0.999
        contract.question.probe_texts.extend(self.probe_texts)
        made = np.stack([vector_of(text, self.corpus.dim) for text in self.probe_texts])
        contract.question.probe_vectors.CopyFrom(vectors.to_proto(made))

    def _describe(self, number: int) -> pb.ShardVersion:
        version = pb.ShardVersion(
            version=number,
            n_live_by_shard=self.corpus.n_live_by_shard,
            dim=self.corpus.dim,
            recipe=self.recipe,
            score_kind=search_pb2.SCORE_KIND_INNER_PRODUCT,
            n_lists=0 if self.recipe == "Flat" else 64,
            default_n_probe=0 if self.recipe == "Flat" else 16,
            default_oversample=10.0,
            next_ordinal=len(self.corpus.ids),
            encoder_model="stub" if self.fingerprint else "",
        )
        if self.fingerprint:
            version.contract.question.fingerprint = self.fingerprint
            version.contract.question.dim = self.corpus.dim
        return version


def _column(texts: list[str]) -> pb.TextColumn:
    encoded = [text.encode() for text in texts]
    offsets = np.cumsum([0, *map(len, encoded)]).astype("<u4")
    return pb.TextColumn(data=b"".join(encoded), offsets=offsets.tobytes())
