"""The directory: one actor that replicas tell that they live, and that tells them of the routers.

Rule: nothing depends on it to answer a query. Its state is `registry.Roster`, rebuilt from
heartbeats; it has no child process and reads no file.
"""

import time

from deploy.ray.registry import Pin, Roster
from deploy.ray.wire import Wire, beat_of, to_wire
from shoal.errors import UnavailableError
from shoal.rpc.tokens import new_token


class Directory:
    """The deployment `directory`, one replica."""

    def __init__(self, version: int, closed: bool) -> None:  # noqa: FBT001 -- Serve binds by place
        """`version` is pinned first; a cluster that is `closed` gets a token, in memory alone."""
        self._roster = Roster(
            begun_s=time.monotonic(),
            first=Pin(version=version),
            own_token=new_token() if closed else "",
        )

    async def heartbeat(self, beat: Wire) -> Wire:
        """Notes that a replica lives, and answers what it must know: a `Beat`, and `Told`."""
        now_s = time.monotonic()
        heard = beat_of(beat)
        self._roster = self._roster.hear(heard, now_s).settle(now_s)
        return to_wire(self._roster.answer(now_s, heard.member.replica))

    async def members(self) -> list[Wire]:
        """Who lives: `Member`s."""
        return [to_wire(member) for member in self._roster.live(time.monotonic())]

    async def pinned(self) -> Wire:
        """The pin, the routers and the token, as a replica is told them: `Told`."""
        now_s = time.monotonic()
        self._roster = self._roster.settle(now_s)
        return to_wire(self._roster.answer(now_s))

    async def pin(self, version: int) -> Wire:
        """Pins another version, a `Pin`: what restarted replicas open and new routers search."""
        self._roster = self._roster.settle(time.monotonic()).repin(version)
        if self._roster.pin is None:
            raise UnavailableError("the directory pins no version")
        return to_wire(self._roster.pin)
