"""A server that answers late, for being far away or on a busy machine, is reached all the same."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import grpc
import pytest

from shoal.credentials import Credentials, Tls
from shoal.rpc.channel import open_channel

SEARCH = "/shoal.v1.SearchService/Search"
LATE_S = 0.15


async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, late_s: float):
    """Until the reader's end; each piece `late_s` after it came."""
    loop = asyncio.get_running_loop()
    with contextlib.suppress(OSError):
        while piece := await reader.read(65_536):
            loop.call_later(late_s, writer.write, piece)


@contextlib.asynccontextmanager
async def far_away(target: str) -> AsyncIterator[str]:
    """The address of a door to `target` whose answers come LATE_S later."""
    port = int(target.rpartition(":")[2])
    writers: list[asyncio.StreamWriter] = []
    async with asyncio.TaskGroup() as passing:

        async def join(reader, writer):
            to_reader, to_writer = await asyncio.open_connection("127.0.0.1", port)
            writers.extend((writer, to_writer))
            passing.create_task(pass_on(reader, to_writer, 0.0))
            passing.create_task(pass_on(to_reader, writer, LATE_S))

        door = await asyncio.start_server(join, "127.0.0.1", 0)
        try:
            yield f"localhost:{door.sockets[0].getsockname()[1]}"
        finally:
            door.close()
            for writer in writers:
                writer.close()
            for writer in writers:
                with contextlib.suppress(OSError):
                    await writer.wait_closed()


@pytest.mark.parametrize("is_tls", [False, True])
async def test_a_far_server_is_reached_at_the_first_attempt(
    server_on, authority, localhost, is_tls
):
    """An attempt to connect had 100 ms: one round trip of 150 ms was too long, and TLS has two."""
    pair = (localhost.key.read_bytes(), localhost.certificate.read_bytes())
    served = grpc.ssl_server_credentials([pair]) if is_tls else None
    credentials = Credentials(tls=Tls(ca=authority.file) if is_tls else None)
    async with (
        server_on(served) as target,
        far_away(target) as door,
        open_channel(door, credentials) as channel,
    ):
        await channel.unary_unary(SEARCH)(b"", timeout=20)
