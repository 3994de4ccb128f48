"""One replica: a child process that is started, announced, watched, restarted and drained.

Rules:
1. The child is the unmodified program; what ends it ends this replica only where it keeps ending.
2. What the directory said last holds until it says something else: its silence stops nothing.
3. The end has an order: routers are told goodbye, then the child drains, then its files go.
Knows the directory as a function to call; must not know Ray.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from deploy.child import STEADY_S, Child
from deploy.load import page_from_elsewhere, page_of
from deploy.plan import IndexFacts, ProcessSpec
from deploy.ray.announcer import Announcer, announcement
from deploy.ray.files import ReplicaFiles
from deploy.ray.load import ChildLoad
from deploy.ray.options import RayOptions
from deploy.ray.processes import child_spec
from deploy.ray.registry import BEAT_S, Beat, Member, Part, Phase, Pin, Told
from deploy.ray.takeover import start_listening
from deploy.ray.watch import ChildHealth, Watch
from shoal.credentials import Credentials
from shoal.errors import ShoalError, StorageError, UnavailableError

logger = logging.getLogger(__name__)

AskDirectory = Callable[[Beat], Awaitable[Told]]
"""Brings a heartbeat to the directory; UnavailableError where it doesn't answer in time."""

_GOODBYE_S = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Here:
    """Where this replica runs, in Ray's words; `replica` is unlike any other's."""

    replica: str
    node: str
    host: str


class Supervisor:
    """Owns the child and the work around it, from `start` to `stop`."""

    def __init__(
        self, part: Part, options: RayOptions, index: IndexFacts, here: Here, ask: AskDirectory
    ) -> None:
        """Prepares; starts nothing."""
        self._part = part
        self._options = options
        self._index = index
        self._here = here
        self._ask = ask
        self._files = ReplicaFiles(options.name, f"{part.name}.{here.replica}")
        self._told = Told()
        self._heard = asyncio.Event()
        self._phase: Phase = "starting"
        self._child: Child | None = None
        self._health = ChildHealth(begun_s=time.monotonic())
        self._start_s = 0.0
        self._fingerprint = ""
        self._announcer = Announcer()
        self._watch: Watch | None = None
        self._load = ChildLoad(part.role)
        self._stats: dict[str, float] = {}
        self._work: asyncio.Task[None] | None = None

    @property
    def address(self) -> str:
        """Where the child listens; "" before it does."""
        return self._child.address if self._child else ""

    @property
    def credentials(self) -> Credentials:
        """What this cluster's processes are asked with."""
        return self._options.credentials(self._told.token)

    async def start(self) -> None:
        """Starts the child, and returns when it serves and the known routers were told of it.

        Raises:
            ShoalError: it ended before, or is not the encoder that built the index.
        """
        started = asyncio.get_running_loop().create_future()
        self._work = asyncio.ensure_future(self._live(started))  # owned by this: `stop` awaits it
        await asyncio.wait({started, self._work}, return_when=asyncio.FIRST_COMPLETED)
        if not started.done():
            await self._work
        await started

    async def stop(self) -> None:
        """Says goodbye to routers and directory, drains the child, and removes its files."""
        if self._work is not None:
            self._work.cancel()
            await asyncio.wait({self._work})  # however it ended, the child must end too
        self._phase = "leaving"
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_GOODBYE_S):
                # whatever of it fails, the child must end
                await asyncio.gather(self._announce(), self._beat(), return_exceptions=True)
        if self._child is not None:
            await self._child.stop()
        await self._announcer.close()
        self._files.remove()

    def check(self) -> None:
        """Raises UnavailableError where the replica is past mending from inside."""
        if self._work is not None and self._work.done():
            raise UnavailableError(f"{self._part.name}: the work around the child has ended")
        if fault := self._health.fault(time.monotonic()):
            raise UnavailableError(f"{self._part.name}: {fault} (log: {self._files.log})")

    async def _live(self, started: "asyncio.Future[None]") -> None:
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(_every(BEAT_S, self._beat))
                group.create_task(_every(BEAT_S, self._announce))
                try:
                    child = await self._start_child()
                except ShoalError as failure:
                    started.set_exception(failure)
                    raise
                self._phase = "serving"
                self._health = ChildHealth(begun_s=time.monotonic(), start_s=self._start_s)
                await self._announce()
                started.set_result(None)
                group.create_task(child.keep_running(self._say, self._on_change))
                group.create_task(self._watch_on())
                group.create_task(self._look_on())
                group.create_task(self._files.end_orphans(self._options.grace_s + _GOODBYE_S))
        except* ShoalError as failures:
            logger.warning("%s ends: %s", self._part.name, failures.exceptions[0])

    async def _start_child(self) -> Child:
        await self._heard.wait()
        assert self._told.pin is not None
        paths = self._files.prepare(self._told.token)
        tls = self._options.tls_certificate is not None
        child = Child(self._spec(self._told.pin), paths, self._options.grace_s, tls=tls)
        self._child = child
        try:
            self._start_s = await start_listening(child, self._options, self._on_change)
            self._watch = Watch(child.address, self._part.role, lambda: self.credentials)
            if self._part.role == "encoder":
                self._fingerprint = await self._watch.encoder_fingerprint(self._index.encoder)
        except BaseException:
            await child.stop()
            raise
        return child

    def _spec(self, pin: Pin) -> ProcessSpec:
        token = self._files.token if self._options.closed else None
        return child_spec(
            self._part, self._options, self._index, name=self._files.name, host=self._here.host,
            version=pin.version, port=self._told.port, token=token,
        )  # fmt: skip

    async def _beat(self) -> None:
        try:
            told = await self._ask(self._own_beat())
        except UnavailableError as failure:
            logger.info("the directory does not answer: %s", failure.message)
            return
        if told.pin is None:
            return  # it has just been started and gathers what replicas know
        if told.token != self._told.token and self._child is not None:
            try:
                self._files.write_token(told.token)
            except StorageError as failure:
                logger.warning("%s", failure.message)
                return  # and is told again
        moved = told.pin != self._told.pin
        self._told = told
        if self._child is not None and moved:
            self._child.spec = self._spec(told.pin)
        self._heard.set()

    def _own_beat(self) -> Beat:
        told = self._told
        return Beat(member=self.member, pin=told.pin, slots=told.slots, token=told.token)

    async def _announce(self) -> None:
        if self._part.role == "router" or self._phase == "starting" or not self.address:
            return
        assert self._told.pin is not None
        request = announcement(
            self._part, self._index, address=self.address, version=self._told.pin.version,
            fingerprint=self._fingerprint, leaving=self._phase == "leaving",
        )  # fmt: skip
        faults = await self._announcer.announce(request, self._told.routers, self.credentials)
        for router, fault in faults.items():
            logger.info("router %s was not told: %s", router, fault)

    async def _watch_on(self) -> None:
        """Asks the child for its health, so that one that hangs is seen."""
        assert self._watch is not None
        async with self._watch as watch:
            while True:
                if await watch.lives():
                    self._health = self._health.served(time.monotonic())
                    await self._catch_up(watch)
                await asyncio.sleep(BEAT_S)

    async def _catch_up(self, watch: Watch) -> None:
        """Starts a shard again that missed a reload: what it has open, hardly a router searches.

        One replica of a shard at a time, so that those that do have somebody to ask.
        """
        assert self._told.pin is not None
        assert self._child is not None
        if self._part.role != "shard":
            return
        has_version = await watch.has_version(self._told.pin.version)
        self._health = self._health.opened(time.monotonic(), has_version=has_version)
        if self._health.missed_a_reload(time.monotonic()) and self._told.may_restart:
            logger.warning("%s lacks version %d", self._part.name, self._told.pin.version)
            self._health = self._health.started_again(time.monotonic())
            await self._child.stop()  # and is started again, with the pinned version

    async def _look_on(self) -> None:
        """Looks at the child's load, for Serve's autoscaler and for whoever asks how it does."""
        while True:
            pid = self._child.state.pid if self._child else 0
            self._stats = await self._load.record(page_of(self._files.address, pid))
            await asyncio.sleep(BEAT_S)

    def _on_change(self) -> None:
        """A child was started, or listens."""
        assert self._child is not None
        self._files.note_child(self._child.state.pid, self._child.state.started)

    def _say(self, line: str) -> None:
        logger.warning("%s", line)
        self._health = self._health.died(time.monotonic(), steady_s=STEADY_S)

    @property
    def stats(self) -> dict[str, float]:
        """The child's load as the autoscaling policy reads it; {} where it isn't known."""
        return self._stats

    @property
    def member(self) -> Member:
        """This replica as the directory knows it."""
        state = self._child.state if self._child else None
        pin = self._told.pin
        return Member(
            replica=self._here.replica,
            part=self._part,
            node=self._here.node,
            host=self._here.host,
            address=state.address if state else "",
            pid=state.pid if state else 0,
            n_restarts=state.n_restarts if state else 0,
            phase=self._phase,
            version=pin.version if pin and self._part.role == "shard" else 0,
            log=str(self._files.log),
            load=self._load.last,
            metrics=page_from_elsewhere(self._load.page, self._here.host),
            behind=self._health.is_behind(time.monotonic()),
        )


async def _every(period_s: float, work: Callable[[], Awaitable[None]]) -> None:
    """Does it again and again, at this pace where it is quicker."""
    while True:
        begun_s = time.monotonic()
        await work()
        await asyncio.sleep(max(0.0, begun_s + period_s - time.monotonic()))
