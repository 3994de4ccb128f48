"""Certificates made for the test, and a server of ours on them."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import pytest
import trustme
from fakes.tokens import FORMER, OPERATOR, SEARCHER, write_tokens
from grpc_health.v1 import health_pb2_grpc
from grpc_health.v1._async import HealthServicer
from grpc_reflection.v1alpha import reflection

from deploy.doctor.facts import doors
from shoal import attempts
from shoal.internal.v1 import admin_pb2 as admin
from shoal.internal.v1 import admin_pb2_grpc
from shoal.rpc.access import AccessFiles, Guard
from shoal.rpc.interceptor import ShoalInterceptor
from shoal.rpc.limits import server_options
from shoal.rpc.request_id import current_request_id
from shoal.rpc.tokens import entry_of
from shoal.v1 import search_pb2 as pb
from shoal.v1 import search_pb2_grpc


@dataclass
class Files:
    """PEM files of one certificate."""

    certificate: Path
    key: Path


class Authority:
    """An authority that signs what a test asks for."""

    def __init__(self, folder: Path) -> None:
        self._ca = trustme.CA()
        self._folder = folder
        self.file = folder / "ca.pem"
        folder.mkdir(parents=True, exist_ok=True)
        self._ca.cert_pem.write_to_path(str(self.file))

    def sign(self, name: str, *hosts: str, ended: bool = False, folder: Path | None = None):
        """A certificate for `hosts`, written as NAME.pem and NAME.key."""
        until = datetime.now(UTC) + timedelta(days=-1 if ended else 30)
        made = self._ca.issue_cert(*hosts, not_after=until)
        at = folder or self._folder
        files = Files(at / f"{name}.pem", at / f"{name}.key")
        files.certificate.write_bytes(b"".join(pem.bytes() for pem in made.cert_chain_pems))
        files.key.write_bytes(made.private_key_pem.bytes())
        return files


@pytest.fixture(scope="session")
def authority(tmp_path_factory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="session")
def stranger(tmp_path_factory) -> Authority:
    """An authority that nobody was told to trust."""
    return Authority(tmp_path_factory.mktemp("stranger"))


@pytest.fixture(scope="session")
def localhost(authority) -> Files:
    return authority.sign("localhost", "localhost", "127.0.0.1")


class Search(search_pb2_grpc.SearchServiceServicer):
    """One index with a name that nobody may learn without a token."""

    async def Search(self, request, context):
        results = [pb.QueryResult() for _ in request.queries]
        return pb.SearchResponse(results=results, request_id=current_request_id(), index="hidden")

    async def StreamSearch(self, requests, context):
        async for item in requests:
            yield pb.StreamSearchResponse(item_id=item.item_id)

    async def ListIndexes(self, request, context):
        return pb.ListIndexesResponse(indexes=[pb.Index(name="hidden")])


class Admin(admin_pb2_grpc.AdminServiceServicer):
    """`ReloadIndex` says in the log when it begins, and never ends by itself."""

    async def GetTopology(self, request, context):
        return admin.GetTopologyResponse()

    async def ReloadIndex(self, request, context):
        logging.getLogger("doors").warning("reloading")
        await asyncio.Event().wait()


@contextlib.asynccontextmanager
async def server_on(
    credentials: grpc.ServerCredentials | None = None,
    tokens: Path | None = None,
    options=None,
) -> AsyncIterator[str]:
    """A server of ours; yields localhost:PORT."""
    guard = Guard(AccessFiles(tokens=tokens)) if tokens else None
    server = grpc.aio.server(
        interceptors=(ShoalInterceptor(guard),), options=options or server_options()
    )
    search_pb2_grpc.add_SearchServiceServicer_to_server(Search(), server)
    admin_pb2_grpc.add_AdminServiceServicer_to_server(Admin(), server)
    health = HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    await health.set("shoal.v1.SearchService", 1)
    reflection.enable_server_reflection(["shoal.v1.SearchService"], server)
    if credentials is None:
        port = server.add_insecure_port("127.0.0.1:0")
    else:
        port = server.add_secure_port("127.0.0.1:0", credentials)
    await server.start()
    try:
        yield f"localhost:{port}"
    finally:
        await server.stop(None)


@pytest.fixture(autouse=True)
def patience(monkeypatch):
    """A second look at a server may take its time: the promised second is for idle machines."""
    monkeypatch.setattr(attempts, "PROBE_TIMEOUT_S", 30.0)
    monkeypatch.setattr(doors, "_TIMEOUT_S", 30.0)


@pytest.fixture(name="server_on")
def _server_on():
    return server_on


@pytest.fixture
def tokens(tmp_path) -> Path:
    """A file with a token that searches, one that administers too, and one whose time is over."""
    return write_tokens(
        tmp_path / "tokens.yaml",
        entry_of("website", SEARCHER, ["search"], None),
        entry_of("ops", OPERATOR, ["admin", "search"], "2999-01-01"),
        entry_of("former", FORMER, ["search", "admin"], "2020-01-01T00:00:00Z"),
    )
