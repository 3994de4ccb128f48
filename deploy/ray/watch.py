"""How a replica's child does: asked over gRPC, and judged by when it last served.

The judgement is pure: time is an argument. Must not know Ray.
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

import grpc

from deploy.child import is_serving
from router.encoder_client import EncoderClient
from shoal.contract import disagreement
from shoal.credentials import Credentials
from shoal.errors import ConfigError
from shoal.internal.v1 import shard_pb2, shard_pb2_grpc
from shoal.rpc.channel import open_channel

if TYPE_CHECKING:
    from shoal.contract import EncoderContract

SILENT_S = 30.0
"""A child that served nothing for so long is given up."""
MAX_DEATHS = 5
"""Deaths in a row, none after a steady life, after which the replica is given up."""

BEHIND_S = 30.0
"""A shard that has not opened the pinned version for so long missed the reload, being started
again at the wrong moment."""

_ASK_S = 1.0
_DESCRIBE_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildHealth:
    """What was seen of a child; `begun_s` is when it first served.

    `behind_s` is since when it lacks the pinned version, None where it doesn't; `catching_up` says
    that it was started again for that, and has not shown the version yet.
    """

    begun_s: float
    served_s: float = 0.0
    died_s: float = 0.0
    n_quick_deaths: int = 0
    behind_s: float | None = None
    catching_up: bool = False

    def opened(self, now_s: float, *, has_version: bool) -> "ChildHealth":
        """It was asked for the pinned version."""
        since_s = now_s if self.behind_s is None else self.behind_s
        if has_version:
            return replace(self, behind_s=None, catching_up=False)
        return replace(self, behind_s=since_s)

    def started_again(self, now_s: float) -> "ChildHealth":
        """It is started again to catch up, and has as long again to show the version."""
        return replace(self, behind_s=now_s, catching_up=True)

    def missed_a_reload(self, now_s: float) -> bool:
        """Whether it must be started again, to open the pinned version."""
        return self.behind_s is not None and now_s - self.behind_s >= BEHIND_S

    def is_behind(self, now_s: float) -> bool:
        """Whether its siblings must wait before they are started again."""
        return self.catching_up or self.missed_a_reload(now_s)

    def served(self, now_s: float) -> "ChildHealth":
        """It said that it serves."""
        return replace(self, served_s=now_s)

    def died(self, now_s: float, *, steady_s: float) -> "ChildHealth":
        """It ended by itself; a life of `steady_s` forgives the deaths before."""
        lived_s = now_s - max(self.begun_s, self.died_s)
        n_quick = 1 if lived_s >= steady_s else self.n_quick_deaths + 1
        return replace(self, died_s=now_s, n_quick_deaths=n_quick)

    def fault(self, now_s: float) -> str:
        """Why the replica is to be replaced; "" where it is not."""
        if self.n_quick_deaths >= MAX_DEATHS and now_s - self.died_s < SILENT_S:
            return f"its process ended {self.n_quick_deaths} times in a row"
        silent_s = now_s - max(self.begun_s, self.served_s)
        if silent_s >= SILENT_S:
            return f"its process served nothing for {silent_s:.0f} s"
        return ""


class Watch:
    """A connection to the child; use as an async context manager, or ask once."""

    def __init__(self, address: str, credentials: Credentials) -> None:
        self._address = address
        self._credentials = credentials

    async def __aenter__(self) -> Self:
        self._channel = open_channel(self._address, self._credentials)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._channel.close()

    async def serves(self) -> bool:
        """Whether it says within 1 s that all of it serves; health needs no token."""
        return await is_serving(self._channel, _ASK_S)

    async def has_version(self, version: int) -> bool:
        """Whether a shard server has this version open; True where it can't be asked."""
        stub = shard_pb2_grpc.ShardServiceStub(self._channel)
        try:
            shard = await stub.GetShard(
                shard_pb2.GetShardRequest(), timeout=_ASK_S, metadata=self._credentials.metadata
            )
        except grpc.RpcError:
            return True
        return any(told.version == version for told in shard.versions)

    async def encoder_fingerprint(self, recorded: "EncoderContract | None") -> str:
        """The question tower's fingerprint, of an encoder that built the index.

        Raises:
            ConfigError: it is another encoder than the one recorded.
            ShoalError: it can't be asked.
        """
        client = EncoderClient(self._address, self._credentials)
        try:
            running = await client.describe(_DESCRIBE_S)
        finally:
            await client.close()
        if recorded is not None and (fault := disagreement(recorded, running)):
            raise ConfigError(fault)
        return running.question.fingerprint
