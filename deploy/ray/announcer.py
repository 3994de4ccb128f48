"""Announces one replica to routers: who serves what, said again before its lease ends.

Rule: straight to each router over gRPC, so that a registry that is down stops nothing. A router
that doesn't answer is told again at the next beat. Knows nothing of Ray, and keeps no task.
"""

import asyncio
from collections.abc import Sequence

import grpc

from deploy.plan import IndexFacts
from deploy.ray.line import Line
from deploy.ray.registry import LEASE_S, Part
from shoal.credentials import Credentials
from shoal.errors import ShoalError
from shoal.internal.v1 import admin_pb2 as pb
from shoal.internal.v1 import admin_pb2_grpc

_TIMEOUT_S = 0.8


def announcement(
    part: Part,
    index: IndexFacts,
    *,
    address: str,
    version: int,
    fingerprint: str,
    leaving: bool = False,
) -> pb.AnnounceRequest:
    """What a shard or an encoder says of itself. Pure.

    `version` is the pinned one, `fingerprint` that of an encoder's question tower.
    """
    request = pb.AnnounceRequest(address=address, lease_ms=int(LEASE_S * 1000), leaving=leaving)
    if part.role == "shard":
        request.shard.CopyFrom(
            pb.ShardRole(
                index=index.name, shard=part.shard, n_shards=index.n_shards, version=version
            )
        )
    else:
        request.encoder.CopyFrom(pb.EncoderRole(question_fingerprint=fingerprint))
    return request


class Announcer:
    """Connections to the routers that were told of last."""

    def __init__(self) -> None:
        self._lines: dict[str, Line] = {}

    async def announce(
        self, request: pb.AnnounceRequest, routers: Sequence[str], credentials: Credentials
    ) -> dict[str, str]:
        """Tells all routers at once; returns those that refused or didn't answer, and why."""
        gone = [self._lines.pop(r) for r in set(self._lines) - set(routers)]
        for line in gone:
            await line.close()
        faults = await asyncio.gather(*(self._tell(request, r, credentials) for r in routers))
        return {r: fault for r, fault in zip(routers, faults, strict=True) if fault}

    async def _tell(
        self, request: pb.AnnounceRequest, router: str, credentials: Credentials
    ) -> str:
        line = self._lines.setdefault(router, Line(router))
        try:
            stub = admin_pb2_grpc.AdminServiceStub(await line.channel(credentials))
            await stub.Announce(request, timeout=_TIMEOUT_S, metadata=credentials.metadata)
        except ShoalError as failure:  # a certificate that is being replaced, perhaps
            return failure.message
        except grpc.RpcError as failure:
            line.failed()
            return f"{failure.code().name}: {failure.details()}"
        line.answered()
        return ""

    async def close(self) -> None:
        """Closes the connections."""
        for line in self._lines.values():
            await line.close()
        self._lines.clear()
