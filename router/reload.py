"""Moves an index to another version under load: load everywhere, flip, release.

Rule: the old version serves until every replica has the new one open and tells the same of it; a
move that fails leaves the old one serving and takes back what it loaded. Replicas load one after
the other, so that queries always find others at full speed. Knows neither disk nor faiss.
"""

import asyncio
import logging
from collections.abc import Iterator
from typing import NoReturn

from router.registry import Registry
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
_LONGEST_SEARCH_S = 600.0
_RELEASE_TIMEOUT_S = 60.0


class Reloader:
    """One move at a time for each index; goes on where its caller leaves."""

    def __init__(self, registry: Registry, *, release_after_s: float) -> None:
        """`release_after_s`: the least time between the flip and the old version's release."""
        self._registry = registry
        self._release_after_s = release_after_s
        self._moving: set[str] = set()
        self._releasing: dict[str, asyncio.Task[None]] = {}

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
        """Moves to a version that the index's replicas agree on and have open; whether it did.

        A router that missed a reload finds its way back by this; nothing is loaded or released.
        """
        index = self._registry.served.indexes.get(name)
        if index is None or name in self._moving or index.version == version:
            return False
        told = opened_everywhere(index, version)
        if told is None or len(told.n_live_by_shard) != len(index.shards):
            return False
        self._moving.add(name)
        try:
            await self._registry.flip(index, told)
        except FailedPreconditionError as failure:  # it has moved otherwise meanwhile
            logger.info("%s: %s", name, failure.message)
            return False
        finally:
            self._moving.discard(name)
        logger.warning("%s took version %d, which its replicas agree on", name, version)
        return True

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
        if version == index.version:
            await _load_everywhere(index, version, deadline)  # for a replica that lacks it
            return
        served = describe(index)
        await self._until_released(index.name, deadline)
        try:
            told = await _load_everywhere(index, version, deadline)
            refuse_misfit(served, told, self._registry.served)
            await self._registry.flip(index, told)
        except ShoalError:
            await _release_everywhere(index, version)
            raise
        logger.info("%s moved from version %d to %d", index.name, index.version, version)
        self._releasing[index.name] = self._registry.start(self._release(index))

    async def _until_released(self, name: str, deadline: Deadline) -> None:
        """At most two versions are open at once."""
        if (releasing := self._releasing.get(name)) is None:
            return
        await asyncio.wait({releasing}, timeout=deadline.remaining_s())
        if not releasing.done():
            raise DeadlineExceededError(
                f"the version of index {name} before this one is still in use; try again later"
            )

    async def _release(self, old: ServedIndex) -> None:
        # other routers of the same shards flip at their own time
        await asyncio.sleep(self._release_after_s)
        if not await self._registry.users.gone(old.name, old.version, _LONGEST_SEARCH_S):
            logger.warning("%s version %d is still in use; released all the same", *_key(old))
        index = self._registry.served.indexes.get(old.name)
        if index is None or index.version == old.version:
            return
        for replica in _replicas(index):
            try:
                # one that was restarted since may have the old version alone
                await replica.load_version(index.version, LOAD_TIMEOUT_S)
                for version in sorted(set(replica.versions) - {index.version}):
                    await replica.release_version(version, _RELEASE_TIMEOUT_S)
            except ShoalError as failure:
                logger.warning("%s kept an old version: %s", replica.address, failure)


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


def opened_everywhere(index: ServedIndex, version: int) -> IndexVersion | None:
    """What all replicas that can be asked tell alike of the version, in every shard; else None."""
    if len(index.there) < len(index.shards):
        return None
    told = [replica.versions.get(version) for replica in _replicas(index) if replica.usable]
    return told[0] if all(other == told[0] for other in told) else None


async def _load_everywhere(index: ServedIndex, version: int, deadline: Deadline) -> IndexVersion:
    """What every replica tells alike of the version, once all have it open."""
    for replica in _replicas(index):
        await _load_on(replica, index, version, deadline)
    # again: one that was restarted meanwhile has forgotten it; the others answer at once
    told = [await _load_on(replica, index, version, deadline) for replica in _replicas(index)]
    if not told:
        raise FailedPreconditionError(f"index {index.name} has no replica in the topology")
    if any(other != told[0] for other in told):
        raise FailedPreconditionError(
            f"the shard servers disagree on version {version} of index {index.name}: their index "
            f"folders are not copies of one another; version {index.version} serves on"
        )
    return told[0]


async def _load_on(
    replica: ShardReplica, index: ServedIndex, version: int, deadline: Deadline
) -> IndexVersion:
    patience = min(deadline, Deadline.after(_PATIENCE_S))
    while True:
        try:
            return await replica.load_version(version, deadline.remaining_s())
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


async def _release_everywhere(index: ServedIndex, version: int) -> None:
    for replica in _replicas(index):
        try:
            await replica.release_version(version, _RELEASE_TIMEOUT_S)
        except ShoalError as failure:
            logger.warning("%s kept version %d: %s", replica.address, version, failure)


def _replicas(index: ServedIndex) -> Iterator[ShardReplica]:
    for replicas in index.shards:
        yield from replicas


def _key(index: ServedIndex) -> tuple[str, int]:
    return index.name, index.version
