"""ShardService over real gRPC, and the process around it."""

import asyncio
import json
import subprocess
import sys
from contextlib import ExitStack, asynccontextmanager
from itertools import pairwise

import grpc
import numpy as np
import pytest
from prometheus_client import REGISTRY

from shard_server.__main__ import serve_shard
from shard_server.config import ShardConfig
from shard_server.limits import SearchParameters
from shard_server.service import ShardServicer
from shoal import vectors
from shoal.internal.v1 import shard_pb2 as pb
from shoal.internal.v1 import shard_pb2_grpc
from shoal.rpc.channel import open_channel
from shoal.rpc.deadline import Deadline
from shoal.rpc.interceptor import ShoalInterceptor
from shoal.rpc.limits import server_options
from shoal.rpc.metrics import PRIORITIES
from shoal.v1 import priority_pb2, search_pb2


@asynccontextmanager
async def serving(folder, **settings):
    """A shard server in this process, its servicer, and a stub for it."""
    servicer = ShardServicer(ShardConfig(index=folder, shard=0, device="cpu", **settings))
    server = grpc.aio.server(interceptors=(ShoalInterceptor(),), options=server_options())
    shard_pb2_grpc.add_ShardServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    await servicer.start()
    async with open_channel(f"127.0.0.1:{port}") as channel:
        yield servicer, shard_pb2_grpc.ShardServiceStub(channel)
    await server.stop(1)
    await servicer.stop()


def told(metric, **labels):
    """What the Prometheus page of this process says."""
    return REGISTRY.get_sample_value(metric, labels)


async def until(condition):
    deadline = Deadline.after(60)
    while not condition():
        assert not deadline.expired
        await asyncio.sleep(0)


def request(queries, version=1, **fields):
    defaults = {"index": "tiny", "k": 10, "n_probe": 8, "candidates": 100}
    return pb.SearchShardRequest(
        version=version, query_vectors=vectors.to_proto(queries), **defaults | fields
    )


@pytest.mark.parametrize("name", ["../tiny", "/etc", "t\0", "%2e%2e", "a\u2215b", "CON", "con"])
async def test_names_do_not_lead_out(write_index, tmp_path, corpus, name):
    """Fault 47: INVALID_ARGUMENT from every method that takes a name, and no file is opened."""
    write_index(tmp_path, "Flat", n_rows=300)
    opened, is_asked = [], [True]

    def note(event, arguments):
        if is_asked[0] and event == "open":
            opened.append(arguments[0])

    async with serving(tmp_path) as (_, stub):
        calls = (
            lambda name: stub.SearchShard(request(corpus.queries[:1], index=name)),
            lambda name: stub.LoadVersion(pb.LoadVersionRequest(index=name, version=2)),
            lambda name: stub.ReleaseVersion(pb.ReleaseVersionRequest(index=name, version=1)),
        )
        with pytest.raises(grpc.aio.AioRpcError):
            await calls[0]("another")  # what Python loads at the first refusal
        sys.addaudithook(note)
        try:
            for call in calls:
                with pytest.raises(grpc.aio.AioRpcError) as refused:
                    await call(name)
                assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        finally:
            is_asked[0] = False
    assert not opened


def column(reply, name, dtype):
    return np.frombuffer(getattr(reply, name), dtype).reshape(reply.n_queries, reply.width)


def ids(columns):
    offsets = np.frombuffer(columns.ids.offsets, "<u4")
    return [columns.ids.data[a:b].decode() for a, b in pairwise(offsets)]


async def test_search_answers_with_the_index_s_columns(tmp_path, corpus, write_index, open_shard):
    """The wire adds and loses nothing."""
    index = open_shard(tmp_path, write_index(tmp_path, n_segments=2))
    wanted = index.search(corpus.queries, SearchParameters(k=10, n_probe=8, candidates=100))
    async with serving(tmp_path) as (_, stub):
        reply = await stub.SearchShard(request(corpus.queries))
    assert (reply.version, reply.n_queries, reply.width) == (1, 200, 10)
    assert reply.accuracy == search_pb2.ACCURACY_EXACT
    np.testing.assert_array_equal(column(reply, "ordinals", "<i8"), wanted.ordinals)
    np.testing.assert_array_equal(column(reply, "segments", "<u4"), wanted.segments)
    np.testing.assert_array_equal(column(reply, "rows", "<u4"), wanted.rows)
    np.testing.assert_array_equal(column(reply, "scores", "<f4"), wanted.scores)
    assert not reply.HasField("passages")
    assert reply.search_ms > 0


@pytest.mark.parametrize("n_queries", [1, 3])
async def test_inline_passages_are_those_of_get_passages(tmp_path, corpus, write_index, n_queries):
    """Text that comes with the hits, few or many, is the text that a fetch round would bring."""
    write_index(tmp_path, n_segments=2, n_rows=300, metadata=True)
    async with serving(tmp_path) as (_, stub):
        search = request(corpus.queries[:n_queries], k=50, n_probe=1, candidates=0)
        search.inline_fields.paths.extend(["id", "text", "metadata"])
        reply = await stub.SearchShard(search)
        real = column(reply, "ordinals", "<i8") >= 0
        assert reply.accuracy == search_pb2.ACCURACY_APPROXIMATE
        assert not real.all()
        fetch = pb.GetPassagesRequest(index="tiny", version=1)
        fetch.segments = column(reply, "segments", "<u4")[real].tobytes()
        fetch.rows = column(reply, "rows", "<u4")[real].tobytes()
        fetch.fields.paths.extend(["id", "text", "metadata"])
        fetched = await stub.GetPassages(fetch)
    assert reply.passages == fetched.passages
    assert ids(reply.passages) == [f"p{i}" for i in column(reply, "ordinals", "<i8")[real]]
    assert not reply.passages.HasField("titles")
    assert len(reply.passages.metadata) == real.sum()


@pytest.mark.parametrize(("fields", "code", "says"), [
    ({"k": 0}, grpc.StatusCode.INVALID_ARGUMENT, "k is 0"),
    ({"n_probe": 4096}, grpc.StatusCode.INVALID_ARGUMENT, "n_probe is 4096"),
    ({"index": "other"}, grpc.StatusCode.NOT_FOUND, "'other' is not served"),
    ({"version": 7}, grpc.StatusCode.FAILED_PRECONDITION, "version 7 is not loaded"),
])  # fmt: skip
async def test_bad_searches_are_refused(tmp_path, corpus, write_index, fields, code, says):
    """One clear message each, with the status that the contract names."""
    write_index(tmp_path, n_rows=300)
    async with serving(tmp_path) as (_, stub):
        with pytest.raises(grpc.aio.AioRpcError, match=says) as refusal:
            await stub.SearchShard(request(corpus.queries[:1], **fields))
    assert refusal.value.code() is code
    if code is grpc.StatusCode.FAILED_PRECONDITION:
        details = dict(refusal.value.trailing_metadata())["grpc-status-details-bin"]
        assert b"WRONG_VERSION" in details


async def test_get_shard_tells_what_a_router_needs(tmp_path, write_index):
    """Counts of every shard, so that coverage is right when one is missing."""
    manifest = write_index(tmp_path, n_shards=3)
    async with serving(tmp_path) as (_, stub):
        reply = await stub.GetShard(pb.GetShardRequest())
    (version,) = reply.versions
    assert (reply.index, reply.shard, reply.device) == ("tiny", 0, "cpu")
    assert list(version.n_live_by_shard) == [shard.n_live for shard in manifest.shards]
    assert (version.dim, version.n_lists, version.default_n_probe) == (64, 32, 8)
    assert version.score_kind == search_pb2.SCORE_KIND_INNER_PRODUCT
    assert not version.HasField("contract")


async def test_versions_come_and_go_under_searches(tmp_path, corpus, write_index):
    """Load the next, release the last: searches that hold it finish, later ones are told."""
    write_index(tmp_path, n_rows=300)
    write_index(tmp_path, n_rows=400)
    async with serving(tmp_path, version=1) as (servicer, stub):
        load = pb.LoadVersionRequest(index="tiny", version=2)
        loaded = await stub.LoadVersion(load)
        assert list(loaded.version.n_live_by_shard) == [400]
        assert await stub.LoadVersion(load) == loaded  # a retry finds it done
        assert told("shoal_index_version", index="tiny") == 2
        assert told("shoal_open_versions", index="tiny") == 2
        assert told("shoal_served_passages", index="tiny", shard="0") == 400
        for version in (1, 2):
            await stub.SearchShard(request(corpus.queries, version=version))
        release = pb.ReleaseVersionRequest(index="tiny", version=1)
        with servicer._versions.hold("tiny", 1) as index:
            releasing = asyncio.ensure_future(stub.ReleaseVersion(release))
            await until(lambda: len(servicer._versions.open_indexes) == 1)
            assert not releasing.done()
            assert index.passages
        await releasing
        assert not index.passages
        await stub.ReleaseVersion(release)  # a retry finds it done
        assert told("shoal_open_versions", index="tiny") == 1
        with pytest.raises(grpc.aio.AioRpcError, match="not loaded"):
            await stub.SearchShard(request(corpus.queries, version=1))
        with pytest.raises(grpc.aio.AioRpcError, match="only one"):
            await stub.ReleaseVersion(pb.ReleaseVersionRequest(version=2))


async def test_versions_that_do_not_fit_are_refused(tmp_path, write_index):
    """What serves goes on serving: a bad load changes nothing."""
    write_index(tmp_path, n_rows=300)
    damaged = write_index(tmp_path, n_rows=400).shards[0].segments[0].files.index
    (tmp_path / damaged.path).write_bytes(b"short")
    write_index(tmp_path, n_rows=300, n_shards=2)
    async with serving(tmp_path, version=1) as (_, stub):
        for version, code, says in (
            (2, grpc.StatusCode.FAILED_PRECONDITION, "index.faiss: 5 bytes"),
            (3, grpc.StatusCode.FAILED_PRECONDITION, "in 2 shards"),
            (9, grpc.StatusCode.NOT_FOUND, "version 9"),
        ):
            with pytest.raises(grpc.aio.AioRpcError, match=says) as refusal:
                await stub.LoadVersion(pb.LoadVersionRequest(index="tiny", version=version))
            assert refusal.value.code() is code
        reply = await stub.GetShard(pb.GetShardRequest())
    assert [version.version for version in reply.versions] == [1]


async def test_a_call_past_its_deadline_costs_no_search(tmp_path, corpus, write_index):
    """While the thread is busy a short deadline passes; the work is dropped, not done."""
    write_index(tmp_path, n_rows=300)
    async with serving(tmp_path) as (servicer, stub):
        opened = asyncio.Event()
        loop = asyncio.get_running_loop()
        busy = asyncio.ensure_future(
            servicer._thread.own(
                lambda: asyncio.run_coroutine_threadsafe(opened.wait(), loop).result(100)
            )
        )
        with pytest.raises(grpc.aio.AioRpcError) as refusal:
            await stub.SearchShard(request(corpus.queries[:1]), timeout=0.1)
        assert refusal.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        opened.set()
        await busy
        await stub.SearchShard(request(corpus.queries[:1]), timeout=60)


async def test_a_full_queue_is_resource_exhausted(tmp_path, corpus, write_index):
    """The router learns at once that it must ask elsewhere, and when to come back; what is refused
    counts by its class, for bulk's is nobody's alarm.
    """
    write_index(tmp_path, n_rows=300)
    async with serving(tmp_path, max_queued=1) as (servicer, stub):
        opened = asyncio.Event()
        loop = asyncio.get_running_loop()
        before = [told("shoal_refused_total", component="shard", priority=p) for p in PRIORITIES]
        busy = asyncio.ensure_future(
            servicer._thread.own(
                lambda: asyncio.run_coroutine_threadsafe(opened.wait(), loop).result(100)
            )
        )
        calls = [asyncio.ensure_future(stub.SearchShard(request(corpus.queries[:1]))) for _ in "12"]
        done, _ = await asyncio.wait(calls, timeout=60, return_when=asyncio.FIRST_COMPLETED)
        (refused,) = done
        assert refused.exception().code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        bulk = request(corpus.queries[:2], priority=priority_pb2.PRIORITY_BULK)
        with pytest.raises(grpc.aio.AioRpcError) as refusal:
            await stub.SearchShard(bulk)
        assert refusal.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        now = [told("shoal_refused_total", component="shard", priority=p) for p in PRIORITIES]
        assert (now[0] - before[0], now[1] - before[1]) == (1, 2)
        assert told("shoal_queue_depth", component="shard") == 1
        opened.set()
        await asyncio.gather(busy, *(call for call in calls if call is not refused))


async def test_serve_shard_announces_itself_and_drains(tmp_path, corpus, write_index):
    """The process's coroutine: bind, open, serve, and stop when told."""
    write_index(tmp_path / "index", n_rows=300)
    address_file = tmp_path / "address.json"
    config = ShardConfig(index=tmp_path / "index", shard=0, address_file=address_file)
    task = asyncio.ensure_future(serve_shard(config))
    await until(lambda: address_file.exists() or task.done())
    address = json.loads(address_file.read_text())["address"]
    async with open_channel(address) as channel:
        stub = shard_pb2_grpc.ShardServiceStub(channel)
        while not (await stub.GetShard(pb.GetShardRequest())).versions:
            assert not task.done()
        assert (await stub.SearchShard(request(corpus.queries[:1]))).width == 10
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not address_file.exists()


UNSERVABLE = (
    ("flip", [], "SHA-256 differs"),
    ("cut", [], "vectors.faiss: 100 bytes"),
    ("manifest", [], "manifest.json: no valid index: SHA-256 differs"),
    ("none", ["--shard", "5"], "has 1 shards"),
    ("none", ["--version", "3"], "version 3 is not"),
    ("none", ["--device", "cuda"], "run with --device cpu"),
    ("none", ["--device", "tpu"], "device"),
)


def spoil(folder, manifest, damage):
    """Writes the damage into the index at `folder`."""
    if damage == "cut":
        path = folder / manifest.shards[0].segments[0].files.vectors.path
        path.write_bytes(path.read_bytes()[:100])
    if damage == "manifest":
        path = folder / "versions" / "000001" / "manifest.json"
        path.write_bytes(path.read_bytes()[:100])
    if damage == "flip":
        path = folder / manifest.shards[0].segments[0].files.vectors.path
        content = bytearray(path.read_bytes())
        content[-20] ^= 1
        path.write_bytes(content)


@pytest.mark.end_to_end
def test_what_can_not_be_served_ends_the_process(tmp_path, write_index):
    """Faults 12, 13 and 15: exit 78 and one line on stderr; it never says SERVING.

    All are started at once, for their imports take the time.
    """
    with ExitStack() as stack:
        started = []
        for number, (damage, flags, says) in enumerate(UNSERVABLE):
            folder = tmp_path / str(number)
            spoil(folder, write_index(folder, n_rows=300), damage)
            process = subprocess.Popen(
                [sys.executable, "-m", "shard_server", "--index", str(folder), "--shard", "0",
                 *flags],
                stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
            )  # fmt: skip
            stack.enter_context(process)
            stack.callback(process.kill)
            started.append((process, says))
        for process, says in started:
            _, told = process.communicate(timeout=60)
            assert (process.returncode, told.count("\n")) == (78, 1), told
            assert says in told
