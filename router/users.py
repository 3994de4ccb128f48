"""Which versions searches under way still use, so that none is closed under them.

Counts and waits; knows neither replicas nor the wire.
"""

import asyncio
import contextlib
from collections.abc import Iterator

Version = tuple[str, int]
"""An index's name and a version of it."""


class Users:
    """Searches under way, by index and version."""

    def __init__(self) -> None:
        self._n_users: dict[Version, int] = {}
        self._left = asyncio.Event()

    @contextlib.contextmanager
    def hold(self, name: str, version: int) -> Iterator[None]:
        """Counts a search of this version inside the block."""
        key = (name, version)
        self._n_users[key] = self._n_users.get(key, 0) + 1
        try:
            yield
        finally:
            self._n_users[key] -= 1
            if not self._n_users[key]:
                del self._n_users[key]
                self._left.set()

    async def gone(self, name: str, version: int, timeout_s: float) -> bool:
        """Returns when no search uses the version; False where one still does after `timeout_s`."""
        try:
            async with asyncio.timeout(timeout_s):
                while (name, version) in self._n_users:
                    self._left.clear()
                    await self._left.wait()
        except TimeoutError:
            return False
        return True
