"""What one peer can send: bytes, metadata, time (faults 26, 37, 40 in part)."""

import asyncio
import contextlib
import time

import grpc
import pytest

from shoal.rpc.channel import open_channel
from shoal.rpc.limits import MAX_MESSAGE_BYTES, server_options

SEARCH = "/shoal.v1.SearchService/Search"


async def test_a_request_over_the_limit_is_refused_and_the_connection_lives(server_on):
    """Fault 26: 17 MiB, from a client whose own limits are off; then a call on the same channel."""
    wide = (("grpc.max_send_message_length", -1), ("grpc.use_local_subchannel_pool", 1))
    async with server_on() as target, grpc.aio.insecure_channel(target, options=wide) as channel:
        states = []
        search = channel.unary_unary(SEARCH)
        await search(b"", timeout=10)
        states.append(channel.get_state())
        with pytest.raises(grpc.aio.AioRpcError) as told:
            await search(bytes(MAX_MESSAGE_BYTES + (1 << 20)), timeout=20)
        assert told.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        states.append(channel.get_state())
        await search(b"", timeout=10)
        assert states == [grpc.ChannelConnectivity.READY] * 2


async def test_metadata_over_the_limit_is_refused_and_others_go_on(server_on):
    """Fault 40, its third part: 64 KiB of metadata end in a refusal, not in memory."""
    async with server_on() as target, open_channel(target) as channel:
        search = channel.unary_unary(SEARCH)
        with pytest.raises(grpc.aio.AioRpcError) as told:
            await search(b"", metadata=(("x-much", "x" * 65_536),), timeout=10)
        assert told.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        await search(b"", metadata=(("x-little", "x" * 4_096),), timeout=10)


def options_with(handshake_timeout_s):
    """The servers' own, with another timeout."""
    changed = {"grpc.server_handshake_timeout_ms": round(handshake_timeout_s * 1000)}
    return tuple({**dict(server_options()), **changed}.items())


async def dribbling(target, n_peers):
    """Peers that have sent half a preface, and then nothing more."""
    port = int(target.rpartition(":")[2])
    peers = [await asyncio.open_connection("127.0.0.1", port) for _ in range(n_peers)]
    for _, writer in peers:
        writer.write(b"PRI * HTTP/2.0\r\n")
        await writer.drain()
    return peers


async def closed(reader, writer):
    """Waits until the server hangs up."""
    with contextlib.suppress(ConnectionResetError):
        while await reader.read(4096):
            pass
    writer.close()


async def test_others_are_served_while_peers_dribble(server_on):
    """Fault 37: twenty peers that never finish their first frame cost nobody else anything."""
    async with server_on(options=options_with(600.0)) as target:
        peers = await dribbling(target, 20)
        async with open_channel(target) as channel:
            await channel.unary_unary(SEARCH)(b"", timeout=20)
        assert not any(reader.at_eof() for reader, _ in peers), "they are still there"
        for _, writer in peers:
            writer.close()


async def test_a_dribbled_preface_is_cut_off_at_the_handshake_timeout(server_on):
    """Fault 37: a peer that never finishes its first frame doesn't stay."""
    async with server_on(options=options_with(1.0)) as target:
        begun_s = time.monotonic()
        peers = await dribbling(target, 20)
        async with asyncio.timeout(30):
            await asyncio.gather(*(closed(*peer) for peer in peers))
        assert time.monotonic() - begun_s >= 0.9, "by the timeout, not at once"


def test_the_limits_that_servers_run_with():
    """A default that is lost by a typing error would be noticed on a bad day only."""
    options = dict(server_options())
    assert options["grpc.server_handshake_timeout_ms"] == 10_000
    assert options["grpc.max_receive_message_length"] == 16 << 20
    assert options["grpc.absolute_max_metadata_size"] == 16 << 10
