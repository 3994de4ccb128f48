"""AdminService over gRPC: what the router sees, who announces itself, the move to a version."""

from typing import Any

import grpc

from router.announcements import announcement_of, checked_address, renew_ms
from router.encoder_replica import EncoderReplica
from router.lease_source import LeaseSource
from router.registry import Registry
from router.reload import LOAD_TIMEOUT_S, Reloader
from router.roles import ShardRole
from router.served import ServedIndex
from router.shard_replica import ShardReplica
from router.standing import State
from shoal import __version__
from shoal.credentials import NO_CREDENTIALS, Credentials
from shoal.errors import FailedPreconditionError, InvalidArgumentError
from shoal.internal.v1 import admin_pb2 as pb
from shoal.internal.v1 import admin_pb2_grpc
from shoal.rpc.deadline import Deadline

_STATES = {
    State.CONNECTING: pb.REPLICA_STATE_CONNECTING,
    State.HEALTHY: pb.REPLICA_STATE_HEALTHY,
    State.TRIAL: pb.REPLICA_STATE_HEALTHY,  # it is asked; `detail` says how
    State.DOUBTED: pb.REPLICA_STATE_EJECTED,
    State.EJECTED: pb.REPLICA_STATE_EJECTED,
}


class AdminServicer(admin_pb2_grpc.AdminServiceServicer):
    """The operating door."""

    def __init__(
        self,
        registry: Registry,
        reloader: Reloader,
        leases: LeaseSource | None = None,
        peer_credentials: Credentials = NO_CREDENTIALS,
    ) -> None:
        """`leases` is the registry's source where replicas announce themselves."""
        self._registry = registry
        self._reloader = reloader
        self._leases = leases
        self._peer_credentials = peer_credentials

    async def GetTopology(
        self,
        request: pb.GetTopologyRequest,  # noqa: ARG002 -- gRPC's signature
        context: grpc.aio.ServicerContext[Any, Any],  # noqa: ARG002 -- gRPC's signature
    ) -> pb.GetTopologyResponse:
        """Who serves what, as this router sees it now."""
        served = self._registry.served
        return pb.GetTopologyResponse(
            indexes=[_index(served.indexes[name]) for name in sorted(served.indexes)],
            encoders=[_encoder(encoder) for encoder in served.encoders],
            release=__version__,
        )

    async def ReloadIndex(
        self, request: pb.ReloadIndexRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.ReloadIndexResponse:
        """Moves an index to another version; the old one serves until every shard has it open."""
        if not request.version:
            raise InvalidArgumentError("version must be 1 or more", field="version")
        deadline = Deadline.of(context, LOAD_TIMEOUT_S)
        await self._reloader.reload(request.index, request.version, deadline)
        return pb.ReloadIndexResponse(version=request.version)

    async def Announce(
        self,
        request: pb.AnnounceRequest,
        context: grpc.aio.ServicerContext[Any, Any],  # noqa: ARG002 -- gRPC's signature
    ) -> pb.AnnounceResponse:
        """Believes a replica for a while; once answered, this router asks it, or no longer does."""
        if self._leases is None:
            raise FailedPreconditionError("this router takes its replicas from its topology file")
        address = checked_address(request.address, self._peer_credentials)
        answer = pb.AnnounceResponse(renew_ms=renew_ms(request))
        if request.leaving:
            self._leases.leave(address)
            role = None
        else:
            told = announcement_of(request, address)
            self._leases.announce(told)
            role = told.role
        if self._leases.is_changed or self._registry.is_behind:
            await self._registry.follow()
        if isinstance(role, ShardRole):
            await self._heed_version(role, self._leases)
        return answer

    async def _heed_version(self, role: ShardRole, leases: LeaseSource) -> None:
        index = self._registry.served.indexes.get(role.index)
        if index is None or role.version == index.version:
            return
        if leases.agreed_version(role.index) == role.version:
            await self._reloader.adopt(role.index, role.version)


def _index(index: ServedIndex) -> pb.IndexTopology:
    known = index.described
    n_live = known.n_live_by_shard if known else (0,) * len(index.shards)
    return pb.IndexTopology(
        index=index.name,
        version=index.version,
        shards=[
            pb.ShardTopology(
                shard=shard, n_live=n_live[shard], replicas=[_shard_replica(r) for r in replicas]
            )
            for shard, replicas in enumerate(index.shards)
        ],
    )


def _shard_replica(replica: ShardReplica) -> pb.ShardReplica:
    return pb.ShardReplica(
        address=replica.address,
        state=_STATES[replica.health.state],
        versions=sorted(replica.versions),
        in_flight=replica.searches.in_flight + replica.passages.in_flight,
        queued=replica.searches.n_waiting,
        detail=replica.health.detail,
    )


def _encoder(encoder: EncoderReplica) -> pb.EncoderReplica:
    contract = encoder.health.description
    return pb.EncoderReplica(
        address=encoder.address,
        state=_STATES[encoder.health.state],
        question_fingerprint=encoder.question_fingerprint,
        model=contract.model if contract else "",
        detail=encoder.health.detail,
    )
