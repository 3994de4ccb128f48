"""What is waited for before a cluster on Ray is called started: asked of a router here."""

from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from deploy.plan import IndexFacts
from deploy.ray import members
from deploy.ray.members import missing_at
from shoal.credentials import NO_CREDENTIALS
from shoal.internal.v1 import admin_pb2 as pb
from shoal.internal.v1 import admin_pb2_grpc
from shoal.rpc.limits import server_options
from shoal.v1 import search_pb2, search_pb2_grpc

INDEX = IndexFacts(name="wiki", version=1, n_shards=1, encoder_model=None)
JUST_STARTED = (grpc.StatusCode.UNAVAILABLE, "this router was just started")


class Router(admin_pb2_grpc.AdminServiceServicer, search_pb2_grpc.SearchServiceServicer):
    """Has a healthy replica of the one shard; `refusal` is what it says to who names no index."""

    def __init__(self) -> None:
        self.refusal = JUST_STARTED

    def GetTopology(self, request, context):
        replica = pb.ShardReplica(address="h:1", state=pb.REPLICA_STATE_HEALTHY)
        shards = [pb.ShardTopology(shard=0, replicas=[replica])]
        return pb.GetTopologyResponse(indexes=[pb.IndexTopology(index="wiki", shards=shards)])

    def GetIndex(self, request, context):
        if self.refusal:
            context.abort(*self.refusal)
        return search_pb2.GetIndexResponse()


@pytest.fixture
def router(monkeypatch):
    """A router and its address."""
    monkeypatch.setattr(members, "_ASK_S", 60.0)  # 5 s are for machines with less to do
    served = Router()
    server = grpc.server(ThreadPoolExecutor(max_workers=2), options=server_options())
    admin_pb2_grpc.add_AdminServiceServicer_to_server(served, server)
    search_pb2_grpc.add_SearchServiceServicer_to_server(served, server)
    served.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    yield served
    server.stop(None).wait()


def test_a_router_that_still_learns_is_waited_for(router):
    """It has all replicas, and refuses the first call of who names no index."""
    assert "just started" in missing_at(router.address, INDEX, NO_CREDENTIALS)
    router.refusal = None
    assert missing_at(router.address, INDEX, NO_CREDENTIALS) == ""


def test_a_router_of_several_indexes_is_not_waited_for(router):
    """It refuses who names none for ever, and rightly."""
    router.refusal = (grpc.StatusCode.INVALID_ARGUMENT, "name an index")
    assert missing_at(router.address, INDEX, NO_CREDENTIALS) == ""
