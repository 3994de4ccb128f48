"""How a replica's child does: asked over gRPC, and judged by when it last served.

Rule: a child is given up for being dead or hung. One that starts again has the time that starting
takes; a router that has nobody to ask answers, and lives.
The judgement is pure: time is an argument. Must not know Ray.
"""

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self, TypeVar

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from deploy.plan import Role
from deploy.ray.line import Line
from router.encoder_client import EncoderClient
from shoal.contract import disagreement
from shoal.credentials import Credentials
from shoal.errors import ConfigError, ShoalError
from shoal.internal.v1 import shard_pb2, shard_pb2_grpc

if TYPE_CHECKING:
    from shoal.contract import EncoderContract

logger = logging.getLogger(__name__)

_Reply = TypeVar("_Reply")

SILENT_S = 30.0
"""A child that served nothing for so long is given up, unless it starts."""
START_MARGIN_S = 30.0
"""What a start may take beyond twice the first one: its files may have left the page cache."""
MAX_DEATHS = 5
"""Deaths in a row, none after a steady life, after which the replica is given up."""

BEHIND_S = 30.0
"""A shard that has not opened the pinned version for so long missed the reload, being started
again at the wrong moment."""

_ASK_S = 1.0
_DESCRIBE_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildHealth:
    """What was seen of a child; `begun_s` is when it first served, `start_s` how long that took.

    `down_s` is when it first died since it last served, None where it has served since.
    `behind_s` is since when it lacks the pinned version, None where it doesn't; `catching_up` says
    that it was started again for that, and has not shown the version yet.
    """

    begun_s: float
    start_s: float = 0.0
    down_s: float | None = None
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
        return replace(self, served_s=now_s, down_s=None)

    def died(self, now_s: float, *, steady_s: float) -> "ChildHealth":
        """It ended by itself; a life of `steady_s` forgives the deaths before."""
        lived_s = now_s - max(self.begun_s, self.died_s)
        n_quick = 1 if lived_s >= steady_s else self.n_quick_deaths + 1
        down_s = now_s if self.down_s is None else self.down_s
        return replace(self, died_s=now_s, down_s=down_s, n_quick_deaths=n_quick)

    def fault(self, now_s: float) -> str:
        """Why the replica is to be replaced; "" where it is not."""
        if self.n_quick_deaths >= MAX_DEATHS and now_s - self.died_s < SILENT_S:
            return f"its process ended {self.n_quick_deaths} times in a row"
        since_s, patience_s = max(self.begun_s, self.served_s), SILENT_S
        if self.down_s is not None:
            since_s, patience_s = self.down_s, 2 * self.start_s + START_MARGIN_S
        if now_s - since_s >= patience_s:
            return f"its process served nothing for {now_s - since_s:.0f} s"
        return ""


class Watch:
    """A connection to the child; use as an async context manager, or ask once."""

    def __init__(self, address: str, role: Role, credentials: Callable[[], Credentials]) -> None:
        """`credentials` are asked for at each call: the token may be another by then."""
        self._address = address
        self._role: Role = role
        self._credentials = credentials
        self._line = Line(address)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._line.close()

    async def lives(self) -> bool:
        """Whether it says within 1 s that all of it serves; health needs no token.

        Of a router it is enough that it says anything: it serves by what shards and encoders do,
        and another process in its place would know less of them.
        """
        health = await self._ask(
            lambda channel: health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(), timeout=_ASK_S
            )
        )
        if health is None:
            return False
        return self._role == "router" or health.status == health_pb2.HealthCheckResponse.SERVING

    async def has_version(self, version: int) -> bool:
        """Whether a shard server has this version open; True where it can't be asked."""
        metadata = self._credentials().metadata
        shard = await self._ask(
            lambda channel: shard_pb2_grpc.ShardServiceStub(channel).GetShard(
                shard_pb2.GetShardRequest(), timeout=_ASK_S, metadata=metadata
            )
        )
        return shard is None or any(told.version == version for told in shard.versions)

    async def _ask(self, call: Callable[[grpc.aio.Channel], Awaitable[_Reply]]) -> _Reply | None:
        try:
            reply = await call(await self._line.channel(self._credentials()))
        except ShoalError as failure:  # a certificate that is being replaced, perhaps
            logger.warning("%s can't be asked: %s", self._address, failure.message)
            return None
        except grpc.RpcError:
            self._line.failed()
            return None
        self._line.answered()
        return reply

    async def encoder_fingerprint(self, recorded: "EncoderContract | None") -> str:
        """The question tower's fingerprint, of an encoder that built the index.

        Raises:
            ConfigError: it is another encoder than the one recorded.
            ShoalError: it can't be asked.
        """
        client = EncoderClient(self._address, self._credentials())
        try:
            running = await client.describe(_DESCRIBE_S)
        finally:
            await client.close()
        if recorded is not None and (fault := disagreement(recorded, running)):
            raise ConfigError(fault)
        return running.question.fingerprint
