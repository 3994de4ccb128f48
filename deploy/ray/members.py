"""Who a running cluster consists of: asked of its directory, and of its routers."""

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import grpc

from deploy.plan import IndexFacts
from deploy.ray.options import RayOptions
from deploy.ray.registry import Member, Pin, Told
from deploy.ray.wire import member_of, pin_of, told_of
from shoal.credentials import Credentials
from shoal.errors import UnavailableError
from shoal.internal.v1 import admin_pb2 as pb
from shoal.internal.v1 import admin_pb2_grpc
from shoal.rpc.channel import open_sync_channel
from shoal.v1 import search_pb2, search_pb2_grpc

if TYPE_CHECKING:
    from ray.serve.handle import DeploymentHandle

_POLL_S = 0.1
_ASK_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Roll:
    """Who lives, and what they are told."""

    members: tuple[Member, ...]
    told: Told

    @property
    def target(self) -> str:
        """What a client connects to; "" without a router."""
        return target_of(self.told.routers)

    @property
    def version(self) -> int:
        """The pinned version; 0 while the directory gathers."""
        return self.told.pin.version if self.told.pin else 0


def target_of(addresses: Sequence[str]) -> str:
    """One target of all routers, which a client balances over: ipv4:10.0.0.1:1,10.0.0.2:1. Pure."""
    if len(addresses) < 2:
        return "".join(addresses)
    scheme = "ipv6" if addresses[0].startswith("[") else "ipv4"
    return f"{scheme}:{','.join(addresses)}"


def directory_of(name: str) -> "DeploymentHandle[Any]":
    """The handle of a cluster's directory; nothing is asked yet."""
    from ray.serve.handle import DeploymentHandle  # noqa: PLC0415 -- pure functions need no Ray

    return DeploymentHandle("directory", name)


def ask_directory(name: str, method: str, *arguments: Any) -> Any:
    """Calls the directory, within 5 s.

    Raises:
        UnavailableError: it doesn't answer.
    """
    from ray.exceptions import RayError  # noqa: PLC0415 -- as above
    from ray.serve.exceptions import RayServeException  # noqa: PLC0415 -- as above

    call = getattr(directory_of(name), method)
    try:
        return call.remote(*arguments).result(timeout_s=_ASK_S)
    except (RayError, RayServeException, TimeoutError) as failure:
        raise UnavailableError(
            f"the directory of cluster {name!r} does not answer ({type(failure).__name__}); "
            "it is started again by Serve, where that runs"
        ) from failure


def roll_of(name: str) -> Roll:
    """Who lives in cluster `name`, by its directory.

    Raises:
        UnavailableError: it doesn't answer.
    """
    told = told_of(ask_directory(name, "pinned"))
    members = ask_directory(name, "members")
    return Roll(members=tuple(member_of(member) for member in members), told=told)


def pin_version(name: str, version: int) -> Pin:
    """Pins a version: what restarted replicas open, and what new routers search."""
    return pin_of(ask_directory(name, "pin", version))


def await_serving(options: RayOptions, index: IndexFacts, until_s: float) -> Roll:
    """Returns when every router answers with a healthy replica of every shard, and an encoder.

    `until_s` is on `time.monotonic()`.

    Raises:
        UnavailableError: not by then; with what is missing.
    """
    while True:
        try:
            roll = roll_of(options.name)
            missing = _missing(roll, index, options.credentials(roll.told.token))
        except UnavailableError as failure:
            missing = failure.message
        if not missing:
            return roll
        if time.monotonic() > until_s:
            raise UnavailableError(f"the cluster did not start in time: {missing}")
        time.sleep(_POLL_S)


def _missing(roll: Roll, index: IndexFacts, credentials: Credentials) -> str:
    if not roll.told.routers:
        return "no router has been heard of"
    with ThreadPoolExecutor(max_workers=8) as pool:
        lacks = pool.map(lambda router: missing_at(router, index, credentials), roll.told.routers)
    told = [f"router {router} {lack}" for router, lack in zip(roll.told.routers, lacks, strict=True)
            if lack]  # fmt: skip
    return next(iter(told), "")


def missing_at(router: str, index: IndexFacts, credentials: Credentials) -> str:
    """What a router lacks to answer anybody with full coverage; "" where it lacks nothing."""
    topology = topology_at(router, credentials)
    if isinstance(topology, str):
        return f"does not answer: {topology}"
    return missing_in(topology, index) or _refusal_at(router, credentials)


def _refusal_at(router: str, credentials: Credentials) -> str:
    """Why the router refuses who names no index; "" where it doesn't.

    One that was just started does, for it may hear of other indexes.
    """
    with open_sync_channel(router, credentials) as channel:
        stub = search_pb2_grpc.SearchServiceStub(channel)
        try:
            stub.GetIndex(
                search_pb2.GetIndexRequest(), timeout=_ASK_S, metadata=credentials.metadata
            )
        except grpc.RpcError as failure:
            # it serves several, or its door is for others: it would answer
            if failure.code() is grpc.StatusCode.UNAVAILABLE:
                return f"does not answer yet: {failure.details()}"
    return ""


def missing_in(topology: pb.GetTopologyResponse, index: IndexFacts) -> str:
    """What a router lacks to answer with full coverage; "" where it lacks nothing. Pure."""
    shards = {
        shard.shard: any(r.state == pb.REPLICA_STATE_HEALTHY for r in shard.replicas)
        for told in topology.indexes
        if told.index == index.name
        for shard in told.shards
    }
    for shard in range(index.n_shards):
        if not shards.get(shard):
            return f"has no healthy replica of shard {shard}"
    encoders = any(e.state == pb.REPLICA_STATE_HEALTHY for e in topology.encoders)
    return "has no healthy encoder" if index.encoder_model and not encoders else ""


def topology_at(router: str, credentials: Credentials) -> "pb.GetTopologyResponse | str":
    """What a router sees; the reason as text where it doesn't answer within 5 s."""
    with open_sync_channel(router, credentials) as channel:
        stub = admin_pb2_grpc.AdminServiceStub(channel)
        try:
            return stub.GetTopology(
                pb.GetTopologyRequest(), timeout=_ASK_S, metadata=credentials.metadata
            )
        except grpc.RpcError as failure:
            return f"{failure.code().name}: {failure.details()}"
