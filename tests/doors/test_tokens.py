"""Tokens at the door: who may call what, and what a refusal gives away (faults 41, 42)."""

import asyncio
import json
import logging
import time

import grpc
import numpy as np
import pytest
import yaml
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from prometheus_client import REGISTRY

from shoal.client import AsyncClient, Client
from shoal.credentials import Credentials, check_credentials, is_loopback_target
from shoal.errors import (
    ConfigError,
    InvalidArgumentError,
    PermissionDeniedError,
    UnauthenticatedError,
)
from shoal.internal.v1 import admin_pb2, admin_pb2_grpc
from shoal.rpc import access, metrics
from shoal.rpc.access import AccessFiles, Guard, is_audited
from shoal.rpc.channel import open_channel
from shoal.rpc.tokens import entry_of, new_token, read_tokens
from shoal.v1 import search_pb2, search_pb2_grpc

VECTOR = np.ones(4, np.float32)
SEARCH = "/shoal.v1.SearchService/Search"
SEARCHER, OPERATOR, FORMER = new_token(), new_token(), new_token()


def write_tokens(path, *entries):
    path.write_text(yaml.safe_dump({"tokens": list(entries)}))
    return path


@pytest.fixture
def tokens(tmp_path):
    return write_tokens(
        tmp_path / "tokens.yaml",
        entry_of("website", SEARCHER, ["search"], None),
        entry_of("ops", OPERATOR, ["admin", "search"], "2999-01-01"),
        entry_of("former", FORMER, ["search", "admin"], "2020-01-01T00:00:00Z"),
    )


def bearer(token):
    return Credentials(token=token).metadata


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


def method_of(scope):
    return {
        "search": SEARCH,
        "encode": "/shoal.v1.EncoderService/Encode",
        "admin": "/shoal.internal.v1.ShardService/SearchShard",
    }[scope]


@pytest.mark.parametrize("given", ["search", "encode", "admin"])
def test_each_scope_opens_its_own_service_alone(tmp_path, given):
    """No scope contains another: who administers a cluster need not read what is in it."""
    path = write_tokens(tmp_path / "t.yaml", entry_of("one", SEARCHER, [given], None))
    guard = Guard(AccessFiles(tokens=path))
    for wanted in ("search", "encode", "admin"):
        verdict = guard.judge(method_of(wanted), bearer(SEARCHER), time.time())
        assert verdict.caller == "one"
        assert (verdict.refusal is None) == (wanted == given)
        if wanted != given:
            assert isinstance(verdict.refusal, PermissionDeniedError)


def test_the_internal_token_opens_everything(tmp_path):
    """A router encodes, searches shards and loads versions with the one token of its cluster."""
    secret = tmp_path / "internal"
    secret.write_text(SEARCHER + "\n")
    guard = Guard(AccessFiles(internal_token=secret))
    for scope in ("search", "encode", "admin"):
        assert guard.judge(method_of(scope), bearer(SEARCHER), 0.0).caller == "internal"


def test_a_token_ends_at_its_time(tmp_path):
    """To the second, though the file is not read again and the token is known already."""
    path = write_tokens(
        tmp_path / "t.yaml", entry_of("one", SEARCHER, ["search"], "2030-01-01T00:00:00Z")
    )
    guard, end_s = Guard(AccessFiles(tokens=path)), 1_893_456_000
    assert guard.judge(SEARCH, bearer(SEARCHER), end_s - 1).refusal is None
    assert guard.judge(SEARCH, bearer(SEARCHER), end_s).refusal is not None


def test_a_changed_file_is_taken_and_a_broken_one_is_not(tmp_path, caplog):
    """A token that is taken out is refused a second later; a typing error closes no door."""
    path = write_tokens(tmp_path / "t.yaml", entry_of("one", SEARCHER, ["search"], None))
    guard = Guard(AccessFiles(tokens=path))
    assert guard.judge(SEARCH, bearer(SEARCHER), 10.0).refusal is None
    for now_s, broken in ((12.0, "tokens: ["), (14.0, UNQUOTED.format("2027-02-30"))):
        path.write_text(broken)
        caplog.clear()
        assert guard.judge(SEARCH, bearer(SEARCHER), now_s).refusal is None
        assert "the tokens stay as they were" in caplog.text
    write_tokens(path, entry_of("other", OPERATOR, ["search"], None))
    assert guard.judge(SEARCH, bearer(SEARCHER), 14.5).refusal is None, "looked at once a second"
    assert guard.judge(SEARCH, bearer(SEARCHER), 16.0).refusal is not None
    assert guard.judge(SEARCH, bearer(OPERATOR), 16.0).caller == "other"


def test_a_file_that_changes_during_its_first_read_is_read_again(tmp_path, monkeypatch):
    """A token taken out while a process starts would open its door until the next change."""
    path = write_tokens(tmp_path / "t.yaml", entry_of("one", SEARCHER, ["search"], None))

    def then_changed(path):
        grants = read_tokens(path)
        write_tokens(path, entry_of("other", OPERATOR, ["search"], None))
        return grants

    monkeypatch.setattr(access, "read_tokens", then_changed)
    guard = Guard(AccessFiles(tokens=path))
    assert guard.judge(SEARCH, bearer(SEARCHER), 10.0).refusal is not None


def test_a_file_that_is_not_there_is_told_at_the_start(tmp_path):
    """In one line that names it."""
    for field in ("tokens", "internal_token"):
        with pytest.raises(ConfigError, match=str(tmp_path / "none")):
            Guard(AccessFiles(**{field: tmp_path / "none"}))


GOOD = entry_of("one", SEARCHER, ["search"], None)
UNQUOTED = yaml.safe_dump({"tokens": [GOOD]}) + "  expires: {}\n"


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("", "one list, named tokens"),
        ("tokens: 3", "one list, named tokens"),
        (json.dumps({"tokens": [], "more": 1}), "one list, named tokens"),
        ("tokens: [", "not valid YAML"),
        ("tokens: [{expires: 2026-13-01}]", "not valid YAML: month"),
        ("tokens: !!int ''", "not valid YAML"),
        ("[" * 1_000, "nested too deeply"),
        (json.dumps({"tokens": ["x"]}), r"tokens\[0\] must have"),
        (json.dumps({"tokens": [{**GOOD, "scope": "search"}]}), "unknown scope"),
        (json.dumps({"tokens": [{**GOOD, "sha256": SEARCHER}]}), "64 lower-case"),
        (json.dumps({"tokens": [{**GOOD, "scopes": ["root"]}]}), "scopes must be some of"),
        (json.dumps({"tokens": [{**GOOD, "scopes": "search"}]}), "scopes must be some of"),
        (json.dumps({"tokens": [{**GOOD, "name": "a b"}]}), "the name must be"),
        (json.dumps({"tokens": [{**GOOD, "expires": "soon"}]}), "expires must be a date"),
        (UNQUOTED.format("2027-02-30"), "day is out of range"),
        (UNQUOTED.format("2027-01-01 25:00:00"), "hour must be in"),
        (UNQUOTED.format("2027-01-01 00:00:00 +24:00"), "strictly between"),
        (json.dumps({"tokens": [GOOD, {**GOOD, "name": "two"}]}), "is there twice"),
        (json.dumps({"tokens": [GOOD, GOOD]}), "the name one is there twice"),
    ],
)
def test_a_broken_tokens_file_is_refused_naming_the_fault(tmp_path, content, why):
    """And never shows a secret that somebody put where its hash belongs."""
    path = tmp_path / "tokens.yaml"
    path.write_text(content)
    with pytest.raises(ConfigError, match=why) as told:
        read_tokens(path)
    assert str(path) in told.value.message
    assert SEARCHER not in told.value.message


@pytest.mark.parametrize(
    ("target", "stays"),
    [
        ("127.0.0.1:1", True), ("localhost:1", True), ("[::1]:1", True), ("127.9.9.9:1", True),
        ("unix:/run/x", True), ("dns:///localhost:1", True), ("ipv4:127.0.0.1:1", True),
        ("ipv4:127.0.0.1:1,10.0.0.1:1", False), ("search.example.com:1", False),
        ("localhost.example.com:1", False), ("dns:///example.com:1", False), ("0.0.0.0:1", False),
        ("xds:///localhost:1", False), ("127.0.0.1.example.com:1", False),
        ("dns:localhost:1", True), ("dns:[::1]:1", True), ("dns:a:1", False),
        ("dns://10.9.9.9/localhost:1", False), ("dns://10.9.9.9:53/127.0.0.1:1", False),
    ],
)  # fmt: skip
def test_a_token_never_leaves_this_machine_in_plaintext(target, stays):
    """Refused before a connection is made, by either client."""
    assert is_loopback_target(target) == stays
    if stays:
        Client(target, token=SEARCHER).close()
    else:
        with pytest.raises(InvalidArgumentError, match="in plaintext"):
            Client(target, token=SEARCHER)


@pytest.mark.parametrize(
    "target",
    ["dns:///10.9.9.9:50051?/127.0.0.1:1", "dns:///10.9.9.9:50051#/127.0.0.1:1",
     "dns:10.9.9.9:50051?x/localhost:1", "dns:///127.0.0.1%2eexample.com:1",
     "ipv4:10.9.9.9:50051?x:1,127.0.0.1:1"],
)  # fmt: skip
def test_a_target_that_grpc_reads_otherwise_gets_no_token(target):
    """gRPC ends an address at `?` or `#` and decodes `%`: the host is not the last one."""
    assert not is_loopback_target(target)
    with pytest.raises(InvalidArgumentError):
        check_credentials(target, Credentials(token=SEARCHER))
    with pytest.raises(InvalidArgumentError):
        Client(target, token=SEARCHER)


@pytest.mark.parametrize("variable", ["grpc_proxy", "https_proxy", "http_proxy"])
async def test_a_token_goes_by_no_proxy_to_this_machine(server_on, tokens, monkeypatch, variable):
    """gRPC heeds proxies for loopback too, and a plaintext token would leave by one."""
    seen = asyncio.Event()

    async def notice(reader, writer):
        seen.set()
        writer.close()

    proxy = await asyncio.start_server(notice, "127.0.0.1", 0)
    port = proxy.sockets[0].getsockname()[1]
    for name in ("no_proxy", "no_grpc_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(variable, f"http://127.0.0.1:{port}")
    async with proxy, server_on(tokens=tokens) as target:
        async with AsyncClient(target, token=SEARCHER) as client:
            assert (await client.search(vector=VECTOR)).index == "hidden"

        def ask():
            with Client(target, token=SEARCHER) as client:
                return client.search(vector=VECTOR).index

        assert await asyncio.to_thread(ask) == "hidden"
        assert not seen.is_set()
        async with open_channel("search.example.com:1") as channel:
            # as everywhere else, the way out is the operator's to say
            call = channel.unary_unary(SEARCH)(b"", timeout=20)
            await asyncio.wait_for(seen.wait(), 20)
            call.cancel()


def test_no_repr_shows_a_token():
    """What is printed by accident ends in logs."""
    assert SEARCHER not in repr(Credentials(token=SEARCHER))
