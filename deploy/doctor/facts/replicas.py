"""The replicas that a router knows, each asked for its release."""

from dataclasses import dataclass

import grpc

from shoal.credentials import NO_CREDENTIALS, Credentials, is_loopback_target
from shoal.errors import ShoalError
from shoal.internal.v1 import admin_pb2, shard_pb2, shard_pb2_grpc
from shoal.rpc.channel import open_channel
from shoal.rpc.status import error_of
from shoal.v1 import encoder_pb2, encoder_pb2_grpc

_TIMEOUT_S = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Replica:
    """One shard server or encoder that the router knows: `part` is "shard 0" or "encoder".

    `state` and `detail` are the router's opinion; `release` is "" where it didn't tell, `why` then.
    """

    part: str
    address: str
    state: str
    detail: str
    release: str
    why: str = ""


async def ask_replica(
    part: str, replica: admin_pb2.ShardReplica | admin_pb2.EncoderReplica, inner: Credentials
) -> Replica:
    """A replica by the router's words and its own; `inner` is what it is shown."""
    state = admin_pb2.ReplicaState.Name(replica.state).removeprefix("REPLICA_STATE_")
    release = why = ""
    try:
        release = await _release(part, replica.address, inner)
    except ShoalError as failure:
        why = failure.message
    return Replica(
        part=part,
        address=replica.address,
        state=state,
        detail=replica.detail,
        release=release,
        why=why,
    )


async def _release(part: str, address: str, inner: Credentials) -> str:
    # a token is never shown to another machine in plaintext
    shown = inner if inner.tls or is_loopback_target(address) else NO_CREDENTIALS
    async with open_channel(address, shown) as channel:
        try:
            if part == "encoder":
                encoder = encoder_pb2_grpc.EncoderServiceStub(channel)
                told = await encoder.GetEncoder(
                    encoder_pb2.GetEncoderRequest(), timeout=_TIMEOUT_S, metadata=shown.metadata
                )
                return told.release
            shard = shard_pb2_grpc.ShardServiceStub(channel)
            reply = await shard.GetShard(
                shard_pb2.GetShardRequest(), timeout=_TIMEOUT_S, metadata=shown.metadata
            )
        except grpc.RpcError as failure:
            raise error_of(failure) from failure
    return reply.release
