"""The processes behind the router: a connection, its lanes and its health, for each replica.

`Replica` watches itself: what it serves is asked for again and again, more often while it can't be
reached, and at once where a call is late. A call that fails to reach it ejects it at once, and a
check that isn't answered in time, unless a call was meanwhile; `standing` says how it comes back.
Knows nothing of queries; `fanout` decides who is asked.
"""

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Generic, Protocol, TypeVar

from router.canary import ProbeBook
from router.config import RouterConfig
from router.lane import Lane
from router.passages import Fetched, PassageJob
from router.shard_client import (
    InvalidReplyError,
    SearchSettings,
    ShardClient,
    ShardReply,
)
from router.standing import Cause, Standing, State
from router.topology import IndexVersion
from shoal.errors import (
    CancelledError,
    DeadlineExceededError,
    ShoalError,
    UnavailableError,
)
from shoal.rpc import metrics
from shoal.vectors import Matrix

logger = logging.getLogger(__name__)

_PROBES_TIMEOUT_S = 2.0

Description = TypeVar("Description")
Told_co = TypeVar("Told_co", covariant=True)
Reply = TypeVar("Reply")


@dataclass(frozen=True, slots=True, kw_only=True)
class Health(Generic[Description]):
    """What was last seen of a replica; replaced as a whole."""

    standing: Standing = field(default_factory=Standing)
    description: Description | None = None

    @property
    def state(self) -> State:
        """Whether it is used."""
        return self.standing.state

    @property
    def detail(self) -> str:
        """Why not, for people."""
        return self.standing.detail


class Describing(Protocol[Told_co]):
    """A client that can ask its process what it serves."""

    address: str

    async def describe(self, timeout_s: float) -> Told_co:
        """Asks. Raises ShoalError."""
        ...

    async def close(self) -> None:
        """Closes the connection."""
        ...


@dataclass(slots=True)
class Changes:
    """Counts what changes who can be asked, so that it is looked up only when it has changed."""

    n: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Shared:
    """What every replica of this router shares; `n_active` tells the queries under way in it."""

    config: RouterConfig
    tasks: asyncio.TaskGroup
    n_active: Callable[[], int]
    probes: ProbeBook = field(default_factory=ProbeBook)
    changes: Changes = field(default_factory=Changes)


class Replica(Generic[Description]):
    """One process, watched; base of shard and encoder replicas."""

    _component = ""

    def __init__(self, client: Describing[Description], shared: Shared) -> None:
        self._client = client
        self._config = shared.config
        self._changes = shared.changes
        self.health: Health[Description] = Health()
        self.checked = asyncio.Event()
        self._heard_s = -math.inf
        self._suspected = asyncio.Event()
        self._watch = shared.tasks.create_task(self._watch_forever())

    @property
    def address(self) -> str:
        """host:port."""
        return self._client.address

    @property
    def standing(self) -> Standing:
        """Whether and when it is asked."""
        return self.health.standing

    @property
    def usable(self) -> bool:
        """Whether it may be asked, if only for want of another."""
        return self.health.standing.usable

    def eject(self, detail: str, cause: Cause = Cause.UNFIT) -> None:
        """Leaves it out until a check succeeds."""
        if self.health.state is not State.EJECTED:
            logger.warning("%s is left out: %s", self.address, detail)
            metrics.EJECTIONS.labels(self._component, cause.value).inc()
        self._stand(self.standing.ejected(detail, time.monotonic()))

    def note(self, failure: Exception) -> None:
        """Ejects it where a call's failure says that the process can't be reached."""
        if isinstance(failure, UnavailableError | CancelledError):
            self.eject(str(failure), Cause.UNREACHABLE)

    def heard(self) -> None:
        """A call was answered: the process is alive, whatever its checks say."""
        self._heard_s = time.monotonic()

    def judge(self, *, well: bool, spare: bool) -> None:
        """A call of its was answered well and in time, or not; `spare`: a sibling does better."""
        before = self.standing
        if well:
            after = before.after_good_answer()
        else:
            after = before.after_strike(time.monotonic(), spare=spare)
            self._suspected.set()
        if after is before:
            return
        self._stand(after)
        if after.state is State.DOUBTED:
            logger.warning("%s is doubted: %s", self.address, after.detail)
            metrics.EJECTIONS.labels(self._component, Cause.STRIKES.value).inc()
        elif after.state is not before.state:
            logger.info("%s is healthy", self.address)

    async def close(self) -> None:
        """Stops watching and closes the connection; calls under way end as unavailable."""
        self._watch.cancel()
        self.checked.set()  # nobody may wait for a check that never comes
        await self._client.close()

    def _fault(self, description: Description) -> str:  # noqa: ARG002 -- for subclasses to look at
        """Why a process that tells this of itself can't be used; empty where it can."""
        return ""

    async def _prove(self, description: Description) -> str:  # noqa: ARG002 -- as `_fault`
        """As `_fault`, where it takes another call to find out. Raises ShoalError."""
        return ""

    async def _watch_forever(self) -> None:
        while True:
            self._suspected.clear()
            await self._check()
            self.checked.set()
            recheck_s = self._config.recheck_s
            if self.health.state is not State.HEALTHY:
                await asyncio.sleep(recheck_s)
                continue
            await asyncio.sleep(min(recheck_s, self._config.check_s))  # suspicion is no load
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, self._config.check_s - recheck_s)):
                    await self._suspected.wait()

    async def _check(self) -> None:
        begun_s, cause = time.monotonic(), Cause.UNFIT
        try:
            description = await self._client.describe(self._config.check_timeout_s)
            fault = self._fault(description) or await self._prove(description)
        except DeadlineExceededError:
            if self._heard_s >= begun_s and self.usable:
                return  # busy, and alive
            fault = f"no answer to a check in {self._config.check_timeout_s:g} s"
            cause = Cause.UNRESPONSIVE
        except ShoalError as failure:
            fault, cause = failure.message, Cause.UNREACHABLE
        except Exception as failure:  # whatever a process tells of itself must not end the router
            logger.exception("%s can't be understood", self.address)
            fault = f"can't be understood: {failure!r}"
        if fault:
            self.eject(fault, cause)
            return
        standing = self.standing.after_check(time.monotonic())
        if standing.state is not self.health.state:
            logger.info("%s is %s", self.address, standing.state.value)
        self._see(Health(standing=standing, description=description))

    def _stand(self, standing: Standing) -> None:
        self._see(replace(self.health, standing=standing))

    def _see(self, health: Health[Description]) -> None:
        before, self.health = self.health, health
        if before.standing.usable != health.standing.usable or (
            before.description != health.description
        ):
            self._changes.n += 1


ShardDescription = tuple[int, dict[int, IndexVersion]]


class ShardReplica(Replica[ShardDescription]):
    """One shard server and the two lanes before it: searches and passages."""

    _component = "shard"

    def __init__(self, address: str, index: str, shard: int, shared: Shared) -> None:
        self.index = index
        self.shard = shard
        self._probes = shared.probes
        self._asked_for_probes: set[str] = set()
        self._shard_client = ShardClient(address, inline_hits=shared.config.inline_hits)
        super().__init__(self._shard_client, shared)
        batch_size = metrics.BATCH_SIZE.labels("router_shard")
        self.searches: Lane[tuple[SearchSettings, Matrix], ShardReply] = Lane(
            self._search,
            tasks=shared.tasks,
            max_cost=shared.config.max_batch_cost,
            on_batch=batch_size.observe,
            n_active=shared.n_active,
        )
        self.passages: Lane[tuple[SearchSettings, PassageJob], Fetched] = Lane(
            self._get_passages,
            tasks=shared.tasks,
            max_cost=shared.config.max_batch_cost,
            on_batch=metrics.BATCH_SIZE.labels("router_passages").observe,
            n_active=shared.n_active,
        )
        self._count = {
            code: metrics.SHARD_REQUESTS.labels(str(shard), code) for code in ("OK", "FAILED")
        }

    async def close(self) -> None:
        """As every replica; what waits in its lanes ends too."""
        self.searches.close()
        self.passages.close()
        await super().close()

    def _fault(self, description: ShardDescription) -> str:
        shard, versions = description
        names = {version.name for version in versions.values()}
        if not versions:
            return "has no version open"
        if shard != self.shard or names != {self.index}:
            told = ", ".join(sorted(names))
            return f"serves shard {shard} of {told}, not shard {self.shard} of {self.index}"
        return ""

    async def _prove(self, description: ShardDescription) -> str:
        """Never finds a fault; learns the probes of towers that the router has none of yet."""
        towers = {version.question_fingerprint for version in description[1].values()} - {""}
        missing = {tower for tower in towers if self._probes.get(tower) is None}
        if missing - self._asked_for_probes:
            try:
                for contract in await self._shard_client.contracts(_PROBES_TIMEOUT_S):
                    self._probes.learn(contract)
            except UnavailableError:
                raise
            except ShoalError as failure:  # a shard of the release before knows no such question
                logger.info("%s tells no probes: %s", self.address, failure.message)
            self._asked_for_probes |= missing
        return ""

    @property
    def load(self) -> int:
        """Queries queued or under way."""
        return self.searches.load

    @property
    def versions(self) -> dict[int, IndexVersion]:
        """What it has open, as far as known."""
        return self.health.description[1] if self.health.description else {}

    async def load_version(self, version: int, timeout_s: float) -> IndexVersion:
        """Has it open a version beside those that are open; what it is. Raises ShoalError."""
        told = await self._shard_client.load_version(self.index, version, timeout_s)
        self._know({**self.versions, version: told})
        return told

    async def release_version(self, version: int, timeout_s: float) -> None:
        """Has it close a version after its last search. Raises ShoalError."""
        await self._shard_client.release_version(self.index, version, timeout_s)
        self._know({number: v for number, v in self.versions.items() if number != version})

    def _know(self, versions: dict[int, IndexVersion]) -> None:
        self._see(replace(self.health, description=(self.shard, versions)))

    async def _search(
        self, jobs: Sequence[tuple[SearchSettings, Matrix]], timeout_s: float
    ) -> Sequence[ShardReply]:
        settings = jobs[0][0]
        matrices = [matrix for _, matrix in jobs]
        return await self._counted(self._shard_client.search(settings, matrices, timeout_s))

    async def _get_passages(
        self, jobs: Sequence[tuple[SearchSettings, PassageJob]], timeout_s: float
    ) -> Sequence[Fetched]:
        settings = jobs[0][0]
        places = [job for _, job in jobs]
        return await self._counted(self._shard_client.passages(settings, places, timeout_s))

    async def _counted(self, call: Awaitable[Sequence[Reply]]) -> Sequence[Reply]:
        try:
            replies = await call
        except ShoalError as failure:
            self._count["FAILED"].inc()
            if isinstance(failure, InvalidReplyError):
                metrics.INVALID_REPLIES.labels(str(self.shard)).inc()
                logger.warning("%s gave an invalid reply: %s", self.address, failure.message)
            self.note(failure)
            raise
        self.heard()
        self._count["OK"].inc()
        return replies
