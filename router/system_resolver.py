"""The system's resolver, asked so that one that hangs holds up nothing else.

Rule: a thread of its own a name, never two for one: what hangs takes no thread from whoever reads
files, and does not pile up. The threads are daemons: a process ends without waiting for them.
"""

import asyncio
import socket
import threading
from collections.abc import Sequence
from concurrent.futures import Future


class SystemResolver:
    """Looks names up; used by one event loop."""

    def __init__(self) -> None:
        self._running: dict[tuple[str, int], Future[Sequence[str]]] = {}

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        """The addresses of a host, of one family; whoever asks while it is looked up waits along.

        Raises:
            OSError, UnicodeError: it can't be looked up.
        """
        running = self._running.get((host, port))
        if running is None or running.done():
            running = self._running[host, port] = Future()
            running.set_running_or_notify_cancel()  # a caller that gives up doesn't end it
            threading.Thread(
                target=_answer, args=(running, host, port), name=f"look up {host}", daemon=True
            ).start()
        return await asyncio.wrap_future(running)


def _answer(running: "Future[Sequence[str]]", host: str, port: int) -> None:
    try:
        running.set_result(look_up(host, port))
    except Exception as failure:  # noqa: BLE001 -- told to whoever waits
        running.set_exception(failure)


def look_up(host: str, port: int) -> Sequence[str]:
    """The addresses of a host, of the family that the system would connect to first (RFC 6724).

    A process with an address of each kind is one process, not two. Blocks.

    Raises:
        OSError, UnicodeError: it can't be looked up.
    """
    found = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)
    return [str(address[0]) for family, *_, address in found if family == found[0][0]]
