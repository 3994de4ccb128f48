"""Tokens at the door: who may call what, and what a refusal gives away (faults 41, 42)."""

import asyncio
import logging

import grpc
import numpy as np
import pytest
from fakes.tokens import FORMER, OPERATOR, SEARCH, SEARCHER, bearer, write_tokens
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from prometheus_client import REGISTRY

from shoal.client import AsyncClient
from shoal.errors import UnauthenticatedError
from shoal.internal.v1 import admin_pb2, admin_pb2_grpc
from shoal.rpc import access, metrics
from shoal.rpc.access import is_audited
from shoal.rpc.channel import open_channel
from shoal.rpc.tokens import entry_of
from shoal.v1 import search_pb2, search_pb2_grpc

VECTOR = np.ones(4, np.float32)


@pytest.mark.parametrize(
    "metadata",
    [
        (),
        bearer("wrong"),
        bearer(SEARCHER[:-1]),
        bearer(SEARCHER + "x"),
        bearer(FORMER),
        (("authorization", SEARCHER),),
        (("authorization", f"Basic {SEARCHER}"),),
        (("authorization", "Bearer"),),
        (("authorization", "Bearer "),),
        (*bearer(SEARCHER), *bearer(SEARCHER)),
        (("authorization-bin", f"Bearer {SEARCHER}".encode()),),
    ],
)
async def test_without_a_valid_token_nothing_is_told(server_on, tokens, metadata):
    """Fault 41: unary calls, streams, reflection and methods that don't exist, all alike."""
    async with server_on(tokens=tokens) as target, open_channel(target) as channel:
        for method in (SEARCH, "/shoal.v1.SearchService/ListIndexes", "/any.Service/Thing"):
            with pytest.raises(grpc.aio.AioRpcError) as told:
                await channel.unary_unary(method)(b"\xff", metadata=metadata, timeout=10)
            assert told.value.code() is grpc.StatusCode.UNAUTHENTICATED
            shown = f"{told.value.details()} {told.value.trailing_metadata()}"
            assert "hidden" not in shown
            assert SEARCHER not in shown
            assert "x-request-id" in shown
        asked = reflection_pb2.ServerReflectionRequest(list_services="")
        listing = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(
            iter([asked]), metadata=metadata, timeout=10
        )
        with pytest.raises(grpc.aio.AioRpcError) as told:
            [reply async for reply in listing]
        assert told.value.code() is grpc.StatusCode.UNAUTHENTICATED


async def test_a_valid_token_searches_and_reflects(server_on, tokens):
    """The open side of the same door; the scheme's case doesn't matter (RFC 7235, 2.1)."""
    async with server_on(tokens=tokens) as target:
        async with AsyncClient(target, token=SEARCHER) as client:
            assert (await client.search(vector=VECTOR)).index == "hidden"
        async with open_channel(target) as channel:
            lower = (("authorization", f"bearer {SEARCHER}"),)
            await channel.unary_unary(SEARCH)(b"", metadata=lower, timeout=10)
            asked = reflection_pb2.ServerReflectionRequest(list_services="")
            listing = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(
                iter([asked]), metadata=bearer(SEARCHER), timeout=10
            )
            assert len([reply async for reply in listing]) == 1


async def test_health_needs_no_token(server_on, tokens):
    """Load balancers and launchers ask for health and have no secret to show."""
    async with server_on(tokens=tokens) as target, open_channel(target) as channel:
        reply = await health_pb2_grpc.HealthStub(channel).Check(
            health_pb2.HealthCheckRequest(service="shoal.v1.SearchService"), timeout=10
        )
        assert reply.status == health_pb2.HealthCheckResponse.SERVING


async def test_admin_needs_its_scope_and_leaves_a_line(server_on, tokens, caplog):
    """Fault 42: who called what, under which id, and how it ended; never the token."""
    caplog.set_level(logging.INFO)
    async with server_on(tokens=tokens) as target, open_channel(target) as channel:
        stub = admin_pb2_grpc.AdminServiceStub(channel)
        for token, request_id in ((SEARCHER, "denied-1"), (OPERATOR, "allowed-1")):
            call = stub.GetTopology(
                admin_pb2.GetTopologyRequest(),
                metadata=(*bearer(token), ("x-request-id", request_id)),
                timeout=10,
            )
            if token == OPERATOR:
                await call
                continue
            with pytest.raises(grpc.aio.AioRpcError) as told:
                await call
            assert told.value.code() is grpc.StatusCode.PERMISSION_DENIED
    lines = [record for record in caplog.records if record.name == "shoal.audit"]
    assert [(line.who, line.outcome) for line in lines] == [
        ("website", "PERMISSION_DENIED"),
        ("ops", "OK"),
    ]
    assert [line.getMessage().rpartition(" ")[2] for line in lines] == ["denied-1", "allowed-1"]
    assert all(line.rpc.endswith("AdminService/GetTopology") for line in lines)
    assert not any(token in caplog.text for token in (SEARCHER, OPERATOR))


def test_every_admin_call_but_the_renewed_leases_is_audited():
    """Announce comes once a second and replica; each other call leaves its promised line."""
    service = admin_pb2.DESCRIPTOR.services_by_name["AdminService"]
    methods = {rpc.name for rpc in service.methods}
    silent = {rpc for rpc in methods if not is_audited(f"/{service.full_name}/{rpc}")}
    assert silent == {"Announce"}
    for rpc in ("LoadVersion", "ReleaseVersion"):
        assert is_audited(f"/shoal.internal.v1.ShardService/{rpc}")


class Kept(logging.Handler):
    """Keeps the audit's lines, and tells when one came, and when a reload began."""

    def __init__(self):
        super().__init__()
        self.records = []
        self.began, self.came = asyncio.Event(), asyncio.Event()

    def emit(self, record):
        if record.name == "doors":
            self.began.set()
        if record.name == "shoal.audit":
            self.records.append(record)
            self.came.set()


@pytest.fixture
def quiet_log():
    """The root logger as `--log-level warning` sets it."""
    root, handler = logging.getLogger(), Kept()
    before = root.level
    root.setLevel(logging.WARNING)
    root.addHandler(handler)
    yield handler
    root.removeHandler(handler)
    root.setLevel(before)


async def test_a_call_that_its_caller_leaves_is_audited(server_on, tokens, quiet_log):
    """What it began goes on, so its line is what the log has of it; whatever the log's level."""
    async with server_on(tokens=tokens) as target, open_channel(target) as channel:
        call = admin_pb2_grpc.AdminServiceStub(channel).ReloadIndex(
            admin_pb2.ReloadIndexRequest(), metadata=bearer(OPERATOR), timeout=60
        )
        async with asyncio.timeout(30):
            await quiet_log.began.wait()
            call.cancel()
            await quiet_log.came.wait()
    [line] = quiet_log.records
    assert (line.who, line.outcome) == ("ops", "CANCELLED")
    assert line.rpc.endswith("AdminService/ReloadIndex")


async def test_a_stream_ends_with_its_token(server_on, tokens, monkeypatch):
    """A stream may last an hour; who is shut out must not search on until then."""
    monkeypatch.setattr(access, "CHECK_EVERY_S", 0.0)
    async with server_on(tokens=tokens) as target, open_channel(target) as channel:
        stream = search_pb2_grpc.SearchServiceStub(channel).StreamSearch(
            metadata=bearer(SEARCHER), timeout=20
        )
        await stream.write(search_pb2.StreamSearchRequest(item_id="one"))
        assert (await stream.read()).item_id == "one"
        write_tokens(tokens, entry_of("ops", OPERATOR, ["admin", "search"], None))
        await stream.write(search_pb2.StreamSearchRequest(item_id="two"))
        with pytest.raises(grpc.aio.AioRpcError) as told:
            await stream.read()
        assert told.value.code() is grpc.StatusCode.UNAUTHENTICATED
        assert "x-request-id" in str(told.value.trailing_metadata())


async def test_clients_raise_the_typed_errors(server_on, tokens):
    """And ask once: a token doesn't become valid by asking twice."""
    labels = {"rpc": "refused", "code": grpc.StatusCode.UNAUTHENTICATED.name}
    metrics.REQUESTS.labels(**labels)  # 0 until then, and not absent

    def n_refused():
        return REGISTRY.get_sample_value("shoal_requests_total", labels)

    async with server_on(tokens=tokens) as target:
        for token, told in (("", "has none"), (FORMER, "of former has expired")):
            n_before = n_refused()
            async with AsyncClient(target, token=token) as client:
                with pytest.raises(UnauthenticatedError, match=told):
                    await client.search(vector=VECTOR)
            assert n_refused() == n_before + 1
