"""Closes versions that no search uses any more, on every replica.

The rules:
1. Nothing is closed before whoever starts routers and replicas says the version that came instead:
   until then other routers may still search the old one, and all may have to go back to it.
2. Who moves back to a version that is to be closed ends that first.
3. Only what the move knew is closed: another router may be opening the next one.
Knows neither disk nor faiss.
"""

import asyncio
import logging
from collections.abc import Collection
from dataclasses import dataclass

from router.registry import Registry
from router.served import ServedIndex
from shoal.errors import DeadlineExceededError, FailedPreconditionError, ShoalError
from shoal.rpc.deadline import Deadline

logger = logging.getLogger(__name__)

RELEASE_TIMEOUT_S = 60.0
_OPEN_TIMEOUT_S = 600.0
_LONGEST_SEARCH_S = 600.0
_POLL_S = 0.1
_PATIENCE_S = 30.0
"""How long the next move waits for this one to be announced by all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pending:
    versions: frozenset[int]
    task: "asyncio.Task[None]"


class Releases:
    """One release under way at most for each index."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._pending: dict[str, _Pending] = {}

    def begin(
        self, index: ServedIndex, versions: Collection[int], new: int, *, after_s: float
    ) -> None:
        """Has `versions` of the index closed, which moved to `new`, in `after_s` or later."""
        wanted = frozenset(versions)
        if (before := self._pending.get(index.name)) is not None and not before.task.done():
            before.task.cancel()
            wanted |= before.versions
        wanted -= {new}
        task = self._registry.start(self._release(index.name, wanted, new, after_s))
        self._pending[index.name] = _Pending(versions=wanted, task=task)

    async def cancel(self, name: str, version: int) -> None:
        """Returns when nothing closes this version any more; it may have been closed in part."""
        pending = self._pending.get(name)
        if pending is not None and version in pending.versions and not pending.task.done():
            pending.task.cancel()
            await asyncio.wait({pending.task})

    async def ended(self, index: ServedIndex, deadline: Deadline) -> None:
        """Returns when the last move's old version is closed: at most two are open at once.

        Raises:
            FailedPreconditionError: the last move was not brought to its end.
            DeadlineExceededError: the version is still in use.
        """
        pending = self._pending.get(index.name)
        if pending is None or pending.task.done():
            return
        try:
            async with asyncio.timeout(min(_PATIENCE_S, deadline.remaining_s())):
                await self._agreed(index.name, index.version)
        except TimeoutError as late:
            raise FailedPreconditionError(
                f"index {index.name} moved to version {index.version} here, but its replicas "
                "don't announce that: reload to that version again, or to the one before it"
            ) from late
        await asyncio.wait({pending.task}, timeout=deadline.remaining_s())
        if not pending.task.done():
            raise DeadlineExceededError(
                f"the version of index {index.name} before this one is still in use; "
                "try again later"
            )

    async def _release(self, name: str, versions: frozenset[int], new: int, after_s: float) -> None:
        # other routers of the same shards flip at their own time
        await asyncio.sleep(after_s)
        await self._agreed(name, new)
        for version in sorted(versions):
            if not await self._registry.users.gone(name, version, _LONGEST_SEARCH_S):
                logger.warning(
                    "%s version %d is still in use; released all the same", name, version
                )
        index = self._registry.served.indexes.get(name)
        if index is None or index.version in versions:
            return
        for replica in index.replicas:
            try:
                # one that was restarted since may have the old version alone
                await replica.load_version(index.version, _OPEN_TIMEOUT_S)
                for version in sorted(versions):
                    await replica.release_version(version, RELEASE_TIMEOUT_S)
            except ShoalError as failure:
                logger.warning("%s kept an old version: %s", replica.address, failure)

    async def _agreed(self, name: str, version: int) -> None:
        while True:
            if self._registry.is_agreed(name, version):
                return
            await asyncio.sleep(_POLL_S)
