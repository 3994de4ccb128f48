"""A bad network between a router and a process: a TCP proxy that delays, stalls, cuts and refuses.

Runs in the test's own event loop. Bytes keep their order; a delay holds every chunk on the way back
for so long, as a slow server would, and lets what follows close up behind it.
"""

import asyncio
import contextlib
from typing import Self


class Proxy:
    """Listens on `address` for `target`; use as an async context manager."""

    def __init__(self, target: str) -> None:
        host, _, port = target.rpartition(":")
        self._target = (host, int(port))
        self.delay_s = 0.0
        """Added to what the target answers."""
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._refusing = False

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.address = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def stall(self) -> None:
        """Half-open: connections stay, and nothing passes in either direction."""
        self._flowing.clear()

    def flow(self) -> None:
        """The end of `stall` and `cut`."""
        self._refusing = False
        self._flowing.set()

    def cut(self) -> None:
        """Breaks every connection and, until `flow`, each that comes."""
        self._refusing = True
        for writer in self._writers:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            if self._refusing:
                return
            back_reader, back_writer = await asyncio.open_connection(*self._target)
            self._writers |= {writer, back_writer}
            try:
                async with asyncio.TaskGroup() as both:
                    both.create_task(self._pass_on(reader, back_writer, is_answer=False))
                    both.create_task(self._pass_on(back_reader, writer, is_answer=True))
            finally:
                self._writers -= {writer, back_writer}
                back_writer.transport.abort()
        except* (OSError, ConnectionError):
            pass  # one end went away: so does the other
        except* asyncio.CancelledError:
            pass  # the test is over; asyncio's streams complain of a handler that was cancelled
        finally:
            writer.transport.abort()
            self._tasks.discard(task)

    async def _pass_on(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, is_answer: bool
    ) -> None:
        loop = asyncio.get_running_loop()
        on_the_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

        async def deliver() -> None:
            while (held := await on_the_way.get())[1]:
                await asyncio.sleep(max(0.0, held[0] - loop.time()))
                await self._flowing.wait()
                writer.write(held[1])
                await writer.drain()
            with contextlib.suppress(OSError):
                writer.write_eof()
            raise ConnectionResetError("one end has closed")

        async with asyncio.TaskGroup() as group:
            group.create_task(deliver())
            chunk = b"."
            while chunk:
                chunk = await reader.read(65_536)
                delay_s = self.delay_s if is_answer else 0.0
                on_the_way.put_nowait((loop.time() + delay_s, chunk))
