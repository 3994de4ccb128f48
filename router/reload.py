"""Moves an index to another version under load: load everywhere, flip, release.

Rule: the old version serves until every replica has the new one open and tells the same of it; a
move that fails leaves the old one serving and closes the new one where it opened it itself: what
was open before, another router may search. Replicas load one after the other, so that queries
always find others at full speed. Knows neither disk nor faiss.
"""

import asyncio
import logging
from dataclasses import dataclass, field
from typing import NoReturn

from router.registry import Registry
from router.releases import RELEASE_TIMEOUT_S, Releases
from router.served import Served, ServedIndex, describe
from router.shard_replica import ShardReplica
from router.topology import IndexVersion
from shoal.errors import (
    CancelledError,
    DeadlineExceededError,
    FailedPreconditionError,
    ShoalError,
    UnavailableError,
)
from shoal.rpc import metrics
from shoal.rpc.deadline import Deadline

logger = logging.getLogger(__name__)

LOAD_TIMEOUT_S = 600.0
"""How long a move may take where its caller sets no deadline: a shard hashes all its bytes."""

_PATIENCE_S = 30.0
"""How long a replica that can't be reached is tried again: a crashed one is being restarted."""
_RETRY_S = 0.2
_ADOPTED_RELEASE_S = 60.0
"""How long a version that was left without a move is kept: a move to it may be under way."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Opened:
    """What a move to `version` found open besides it, and who opened it for this move."""

    version: int
    found: set[int] = field(default_factory=set)
    by: set[ShardReplica] = field(default_factory=set)

    async def note(self, replica: ShardReplica, timeout_s: float) -> None:
        """Before it is asked to open it; a look of a second ago would not do. Raises ShoalError."""
        there = await replica.open_versions(timeout_s)
        self.found.update(there - {self.version})
        if self.version not in there:
            self.by.add(replica)


class Reloader:
    """One move at a time for each index; goes on where its caller leaves."""

    def __init__(self, registry: Registry, *, release_after_s: float) -> None:
        """`release_after_s`: the least time between the flip and the old version's release."""
        self._registry = registry
        self._release_after_s = release_after_s
        self._moving: set[str] = set()
        self._releases = Releases(registry)
        self._complained: dict[str, int] = {}

    async def reload(self, name: str, version: int, deadline: Deadline) -> None:
        """Returns when searches use `version`; the old one is released later.

        Raises:
            FailedPreconditionError: another move is under way, or a replica can't load the version,
                or it doesn't fit what is served. The old version serves on.
            DeadlineExceededError: the replicas did not load it in time; likewise.
            ShoalError: no such index, or nothing is known of it yet.
        """
        index = self._registry.served.index(name)
        if index.name in self._moving:
            raise FailedPreconditionError(f"another reload of index {index.name} is under way")
        self._moving.add(index.name)
        moved: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._registry.start(self._move(index, version, deadline, moved))
        # the caller may leave; what was begun is brought to its end
        await asyncio.shield(moved)

    async def adopt(self, name: str, version: int) -> bool:
        """Moves to a version that all announce, where that costs no coverage; whether it did.

        A router that missed a reload finds its way by this, and one that was moved alone finds its
        way back; nothing is loaded.
        """
        index = self._registry.served.indexes.get(name)
        if index is None or name in self._moving or index.version == version:
            return False
        self._moving.add(name)
        try:
            await self._releases.cancel(name, version)
            told = adoptable(index, version)
            if told is None:
                self._complain(index, version)
                return False
            await self._registry.flip(index, told)
        except FailedPreconditionError as failure:  # it has moved otherwise meanwhile
            logger.info("%s: %s", name, failure.message)
            return False
        finally:
            self._moving.discard(name)
        after_s = max(self._release_after_s, _ADOPTED_RELEASE_S)
        self._releases.begin(index, {index.version}, version, after_s=after_s)
        self._complained.pop(name, None)
        logger.warning("%s took version %d, which its replicas agree on", name, version)
        return True

    def _complain(self, index: ServedIndex, version: int) -> None:
        """Once while it lasts: this is asked with every announcement."""
        if self._complained.get(index.name) != version:
            self._complained[index.name] = version
            logger.warning(
                "%s stays at version %d though all announce %d: too few replicas have that open, "
                "or they tell different things of it", index.name, index.version, version,
            )  # fmt: skip

    async def _move(
        self, index: ServedIndex, version: int, deadline: Deadline, moved: "asyncio.Future[None]"
    ) -> None:
        try:
            await self._load_and_flip(index, version, deadline)
        except ShoalError as failure:
            metrics.RELOAD_FAILURES.labels(index.name).inc()
            logger.warning("%s stays at version %d: %s", index.name, index.version, failure)
            moved.set_exception(failure)
            moved.exception()  # seen, even where the caller has left
        except Exception as failure:
            metrics.RELOAD_FAILURES.labels(index.name).inc()
            logger.exception("reload of %s failed", index.name)
            moved.set_exception(failure)
            moved.exception()
        else:
            moved.set_result(None)
        finally:
            self._moving.discard(index.name)
            moved.cancel()  # where the router ends first: nothing was promised

    async def _load_and_flip(self, index: ServedIndex, version: int, deadline: Deadline) -> None:
        opened = _Opened(version=version)
        if version == index.version:
            await _load_everywhere(index, opened, deadline)  # for a replica that lacks it
            return
        served = describe(index)
        await self._releases.cancel(index.name, version)
        await self._releases.ended(index, deadline)
        try:
            told = await _load_everywhere(index, opened, deadline)
            refuse_misfit(served, told, self._registry.served)
            await self._registry.flip(index, told)
        except ShoalError:
            await _take_back(opened)
            raise
        logger.info("%s moved from version %d to %d", index.name, index.version, version)
        old = opened.found | {index.version}
        self._releases.begin(index, old, version, after_s=self._release_after_s)


def refuse_misfit(old: IndexVersion, new: IndexVersion, served: Served) -> None:
    """Raise FailedPreconditionError where `new` can't take `old`'s place as it is served. Pure."""
    n_old, n_new = len(old.n_live_by_shard), len(new.n_live_by_shard)
    if n_old != n_new:
        _refuse(old, new, f"it has {n_new} shards, {n_old} are served")
    if new.question_fingerprint != old.question_fingerprint:
        encoders = {encoder.question_fingerprint for encoder in served.encoders if encoder.usable}
        if not new.question_fingerprint or new.question_fingerprint not in encoders:
            wanted = new.question_fingerprint[:12] or "none"
            there = ", ".join(sorted(name[:12] for name in encoders)) or "none"
            _refuse(old, new, f"it needs encoder {wanted} ({new.encoder_model}), served: {there}")
    elif new.dim != old.dim:
        _refuse(old, new, f"its vectors have {new.dim} dimensions, those served {old.dim}")


def _refuse(old: IndexVersion, new: IndexVersion, why: str) -> NoReturn:
    raise FailedPreconditionError(
        f"version {new.version} of index {old.name} can't be moved to: {why}; version "
        f"{old.version} serves on, a new cluster can serve the other"
    )


def adoptable(index: ServedIndex, version: int) -> IndexVersion | None:
    """What usable replicas tell alike of the version, where they have no fewer shards of it open
    than of the one that is served; else None.
    """
    told: list[IndexVersion] = []
    n_new = n_served = 0
    for replicas in index.shards:
        usable = [replica.versions for replica in replicas if replica.usable]
        holders = [versions[version] for versions in usable if version in versions]
        told += holders
        n_new += bool(holders)
        n_served += any(index.version in versions for versions in usable)
    if not told or n_new < n_served or any(other != told[0] for other in told):
        return None
    return told[0] if len(told[0].n_live_by_shard) == len(index.shards) else None


async def _load_everywhere(index: ServedIndex, opened: _Opened, deadline: Deadline) -> IndexVersion:
    """What every replica tells alike of the version, once all have it open."""
    for replica in index.replicas:
        await _load_on(replica, index, opened, deadline)
    # again: one that was restarted meanwhile has forgotten it; the others answer at once
    told = [await _load_on(replica, index, opened, deadline) for replica in index.replicas]
    if not told:
        raise FailedPreconditionError(f"index {index.name} has no replica in the topology")
    if any(other != told[0] for other in told):
        raise FailedPreconditionError(
            f"the shard servers disagree on version {opened.version} of index {index.name}: their "
            f"index folders are not copies of one another; version {index.version} serves on"
        )
    return told[0]


async def _load_on(
    replica: ShardReplica, index: ServedIndex, opened: _Opened, deadline: Deadline
) -> IndexVersion:
    patience = min(deadline, Deadline.after(_PATIENCE_S))
    while True:
        try:
            await opened.note(replica, deadline.remaining_s())
            return await replica.load_version(opened.version, deadline.remaining_s())
        except ShoalError as failure:
            told = (
                f"shard {replica.shard} at {replica.address}: {failure.message}; version "
                f"{index.version} of index {index.name} serves on"
            )
            if isinstance(failure, DeadlineExceededError):
                raise DeadlineExceededError(told) from failure
            unreachable = isinstance(failure, UnavailableError | CancelledError)
            if not unreachable or patience.expired:
                raise FailedPreconditionError(told) from failure
        await asyncio.sleep(_RETRY_S)


async def _take_back(opened: _Opened) -> None:
    for replica in opened.by:
        try:
            await replica.release_version(opened.version, RELEASE_TIMEOUT_S)
        except ShoalError as failure:
            logger.warning("%s kept version %d: %s", replica.address, opened.version, failure)
