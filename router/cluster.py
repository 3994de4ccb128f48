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
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Generic, Protocol, TypeVar

from router.canary import ProbeBook
from router.config import RouterConfig
from router.standing import Cause, Standing, State
from shoal.errors import (
    CancelledError,
    DeadlineExceededError,
    ShoalError,
    UnavailableError,
)
from shoal.rpc import metrics

logger = logging.getLogger(__name__)

_EJECTIONS = {
    (component, cause): metrics.EJECTIONS.labels(component, cause.value)
    for component in ("shard", "encoder")
    for cause in Cause
}
"""All of them, so that they are 0 and not absent: an alarm sees the first."""

Description = TypeVar("Description")
Told_co = TypeVar("Told_co", covariant=True)


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
            _EJECTIONS[self._component, cause].inc()
        self._stand(self.standing.ejected(detail, time.monotonic()))

    def note(self, failure: Exception) -> None:
        """Ejects it where a call's failure says that the process can't be reached."""
        if isinstance(failure, UnavailableError | CancelledError):
            self.eject(str(failure), Cause.UNREACHABLE)

    def heard(self) -> None:
        """A call was answered: the process is alive, whatever its checks say."""
        self._heard_s = time.monotonic()

    def judge(self, *, since_s: float, well: bool, spare: bool) -> None:
        """A call of its was answered well and in time, or not; `spare`: a sibling does better."""
        before = self.standing
        if well:
            after = before.after_good_answer()
        else:
            after = before.after_strike(time.monotonic(), since_s=since_s, spare=spare)
            self.suspect()
        if after is before:
            return
        self._stand(after)
        if after.state is State.DOUBTED:
            logger.warning("%s is doubted: %s", self.address, after.detail)
            _EJECTIONS[self._component, Cause.STRIKES].inc()
        elif after.state is not before.state:
            logger.info("%s is healthy", self.address)

    def suspect(self) -> None:
        """It takes long: is it there?"""
        self._suspected.set()

    def leave(self) -> None:
        """It is about to stop; searches that began before ask it only where there is no other."""
        if self.usable:
            self._stand(self.standing.leaving())

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
        except (UnavailableError, CancelledError) as failure:
            fault, cause = failure.message, Cause.UNREACHABLE
        except ShoalError as failure:  # it answers, and says that it can't be used
            fault = failure.message
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
