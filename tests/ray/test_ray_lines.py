"""Supervisors' connections, to routers and to their child, against servers in this process."""

import contextlib
from types import SimpleNamespace

import grpc
import pytest
import trustme
from faults.processes import free_port
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1._async import HealthServicer

from deploy.plan import IndexFacts
from deploy.ray import announcer as announcing
from deploy.ray import watch as watching
from deploy.ray.announcer import Announcer
from deploy.ray.line import MAX_FAILURES
from deploy.ray.options import ray_options
from deploy.ray.registry import Part, Told
from deploy.ray.supervisor import Here, Supervisor
from deploy.ray.watch import Watch
from shoal.credentials import NO_CREDENTIALS, Credentials, Tls
from shoal.internal.v1 import admin_pb2 as pb
from shoal.internal.v1 import admin_pb2_grpc
from shoal.rpc.limits import server_options


class Router(admin_pb2_grpc.AdminServiceServicer):
    async def Announce(self, request, context):
        return pb.AnnounceResponse()


@contextlib.asynccontextmanager
async def router(authority: trustme.CA, port: int = 0):
    """Serves in TLS with this authority's certificate; yields the port."""
    made = authority.issue_cert("127.0.0.1")
    server = grpc.aio.server()
    admin_pb2_grpc.add_AdminServiceServicer_to_server(Router(), server)
    chain = b"".join(pem.bytes() for pem in made.cert_chain_pems)
    doors = grpc.ssl_server_credentials([(made.private_key_pem.bytes(), chain)])
    port = server.add_secure_port(f"127.0.0.1:{port}", doors)
    await server.start()
    yield port
    await server.stop(None)


@pytest.fixture(autouse=True)
def patience(monkeypatch):
    """A second is for machines with nothing else to do."""
    monkeypatch.setattr(announcing, "_TIMEOUT_S", 30.0)
    monkeypatch.setattr(watching, "_ASK_S", 30.0)


@pytest.fixture
def tls(tmp_path):
    """Credentials that trust whoever is in the file, and that file."""
    ca = tmp_path / "ca.pem"
    return SimpleNamespace(ca=ca, credentials=Credentials(tls=Tls(ca=ca)))


async def test_an_authority_that_cannot_be_read_for_a_moment_is_a_fault_as_others(tls):
    """Whoever replaces the file may do so in two steps; no replica may end for that."""
    announcer = Announcer()
    told = await announcer.announce(pb.AnnounceRequest(), ["127.0.0.1:1"], tls.credentials)
    assert "ca.pem" in told["127.0.0.1:1"]
    watch = Watch("127.0.0.1:1", "shard", lambda: tls.credentials)
    assert not await watch.lives()
    assert await watch.has_version(1)  # as wherever it can't be asked


async def test_a_router_with_a_new_authority_is_believed_once_the_file_has_it(tls):
    """A channel trusts whom it trusted when it was opened, were it a year ago."""
    old, new = trustme.CA(), trustme.CA()
    old.cert_pem.write_to_path(str(tls.ca))
    announcer = Announcer()
    async with router(old, free_port()) as port:
        address = f"127.0.0.1:{port}"
        assert not await announcer.announce(pb.AnnounceRequest(), [address], tls.credentials)
    new.cert_pem.write_to_path(str(tls.ca))
    async with router(new, port):
        for _ in range(MAX_FAILURES + 2):
            faults = await announcer.announce(pb.AnnounceRequest(), [address], tls.credentials)
            if not faults:
                break
    assert not faults
    await announcer.close()


async def test_a_router_that_answers_lives_and_a_shard_must_serve():
    """In an outage of shards every router would be replaced by one that knows nothing of them."""
    server, health = grpc.aio.server(options=server_options()), HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    await health.set("", health_pb2.HealthCheckResponse.NOT_SERVING)
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    watches = {role: Watch(address, role, lambda: NO_CREDENTIALS) for role in ("router", "shard")}
    assert await watches["router"].lives()
    assert not await watches["shard"].lives()
    await health.set("", health_pb2.HealthCheckResponse.SERVING)
    assert await watches["shard"].lives()
    await server.stop(None)
    assert not await watches["router"].lives()
    for watch in watches.values():
        async with watch:
            pass


async def test_a_goodbye_that_fails_still_ends_the_child(tmp_path, monkeypatch):
    """Nobody else would end it, and the token would lie there."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))

    async def fail(*_):
        raise ValueError("no goodbye")

    facts = IndexFacts(name="axes", version=1, n_shards=1, encoder_model=None)
    here = Here(replica="r", node="n", host="127.0.0.1")
    part = Part(name="shard-0", role="shard", shard=0)
    owner = Supervisor(part, ray_options({"index": "/i"}), facts, here, fail)
    owner._told = Told(token="t" * 43)
    owner._files.prepare("t" * 43)
    ended = []

    async def stop():
        ended.append(True)

    state = SimpleNamespace(address="", pid=1, n_restarts=0)
    owner._child = SimpleNamespace(stop=stop, state=state, address="")
    await owner.stop()
    assert ended
    assert not list(tmp_path.rglob("*.token"))
