"""A reload over several routers: all move, or none."""

import time
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from deploy.ray.reload import move_all, persistently
from shoal.credentials import NO_CREDENTIALS
from shoal.errors import FailedPreconditionError, UnavailableError
from shoal.internal.v1 import admin_pb2 as pb
from shoal.internal.v1 import admin_pb2_grpc
from shoal.rpc.limits import server_options


class Router(admin_pb2_grpc.AdminServiceServicer):
    """Moves when it is told to, unless it `refuses` that version."""

    def __init__(self, refuses: int = 0) -> None:
        self.version = 1
        self._refuses = refuses

    def ReloadIndex(self, request, context):
        if request.version == self._refuses:
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, "a shard could not load it")
        self.version = request.version
        return pb.ReloadIndexResponse(version=self.version)


@pytest.fixture
def serve():
    """`serve(router, ...)`: their addresses."""
    servers = []

    def start(*routers: Router) -> list[str]:
        addresses = []
        for router in routers:
            server = grpc.server(ThreadPoolExecutor(max_workers=2), options=server_options())
            admin_pb2_grpc.add_AdminServiceServicer_to_server(router, server)
            addresses.append(f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}")
            server.start()
            servers.append(server)
        return addresses

    yield start
    for server in servers:
        server.stop(None).wait()


def move(addresses: list[str]) -> None:
    move_all(addresses, "wiki", 1, 2, NO_CREDENTIALS, time.monotonic() + 60)


def test_every_router_is_moved(serve):
    """A client that is balanced over them must not see two versions for long."""
    routers = [Router(), Router(), Router()]
    move(serve(*routers))
    assert [router.version for router in routers] == [2, 2, 2]


@pytest.mark.parametrize("refusing", [0, 2])
def test_where_one_refuses_those_that_moved_go_back(serve, refusing):
    """Two routers of different versions would answer the same question differently for ever."""
    routers = [Router(2 if number == refusing else 0) for number in range(3)]
    with pytest.raises(FailedPreconditionError, match="could not load"):
        move(serve(*routers))
    assert [router.version for router in routers] == [1, 1, 1]


@pytest.mark.parametrize("reason", [UnavailableError("no directory"), KeyboardInterrupt()])
def test_where_the_version_is_not_pinned_all_go_back(serve, reason):
    """What is pinned is what restarted shards open; routers that search another would find none."""
    routers = [Router(), Router()]

    def pin():
        raise reason

    with pytest.raises(type(reason)):
        move_all(serve(*routers), "wiki", 1, 2, NO_CREDENTIALS, time.monotonic() + 60, pin=pin)
    assert [router.version for router in routers] == [1, 1]


def test_a_router_that_does_not_go_back_is_named(serve):
    """Who reads that the old version serves on everywhere must be able to believe it."""
    routers = [Router(refuses=1), Router(refuses=2)]
    addresses = serve(*routers)
    with pytest.raises(UnavailableError, match=f"not back at version 1 yet: {addresses[0]},"):
        move(addresses)


def test_a_directory_that_is_being_started_again_is_waited_for():
    """All routers have moved by then: one answer that is lost must not undo that."""
    asked = []

    def pin():
        asked.append(1)
        if len(asked) == 1:
            raise UnavailableError("just being started")

    persistently(pin)
    assert len(asked) == 2
    asked.clear()
    with pytest.raises(UnavailableError):
        persistently(pin, patience_s=-1.0)
