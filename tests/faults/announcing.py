"""What supervisors do for a router that follows leases: announce each process again and again."""

import threading
from collections.abc import Mapping
from typing import Self

import grpc
from faults import stub
from faults.processes import Process

from shoal.internal.v1 import admin_pb2 as pb
from shoal.internal.v1 import admin_pb2_grpc

Announced = dict[str, pb.AnnounceRequest]
"""By address."""
LEASE_MS = 1_000
_RENEW_S = 0.3


def of_shard(process: Process, shard: int) -> pb.AnnounceRequest:
    role = {"index": stub.NAME, "shard": shard, "n_shards": stub.N_SHARDS, "version": 1}
    return pb.AnnounceRequest(address=process.address, lease_ms=LEASE_MS, shard=role)


def everybody(shards: Mapping[tuple[int, int], Process], encoder: Process) -> Announced:
    """These shard replicas, by shard and number, and the encoder."""
    told = [of_shard(process, shard) for (shard, _), process in shards.items()]
    told.append(pb.AnnounceRequest(address=encoder.address, lease_ms=LEASE_MS, encoder={}))
    return {request.address: request for request in told}


class Announcing:
    """Announces `requests`, which may be replaced, from a thread of its own."""

    def __init__(self, router: str, requests: Announced) -> None:
        self.requests = requests
        self._channel = grpc.insecure_channel(router)
        self._stub = admin_pb2_grpc.AdminServiceStub(self._channel)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._announce)

    def leave(self, address: str) -> None:
        """Its goodbye, heard by the router when this returns."""
        self.requests = {a: r for a, r in self.requests.items() if a != address}
        self._stub.Announce(pb.AnnounceRequest(address=address, leaving=True), timeout=5)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self._channel.close()

    def _announce(self) -> None:
        while not self._over.wait(_RENEW_S):
            calls = [self._stub.Announce.future(r, timeout=0.3) for r in self.requests.values()]
            for call in calls:
                call.exception()  # a router that doesn't answer is told again
