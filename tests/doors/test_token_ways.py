"""Where a token goes, and where it never does: networks in plaintext, proxies, logs."""

import asyncio

import numpy as np
import pytest
from fakes.tokens import SEARCH, SEARCHER

from shoal.client import AsyncClient, Client
from shoal.credentials import Credentials, check_credentials, is_loopback_target
from shoal.errors import InvalidArgumentError
from shoal.rpc.channel import open_channel

VECTOR = np.ones(4, np.float32)


@pytest.mark.parametrize(
    ("target", "stays"),
    [
        ("127.0.0.1:1", True), ("localhost:1", True), ("[::1]:1", True), ("127.9.9.9:1", True),
        ("unix:/run/x", True), ("dns:///localhost:1", True), ("ipv4:127.0.0.1:1", True),
        ("ipv4:127.0.0.1:1,10.0.0.1:1", False), ("search.example.com:1", False),
        ("localhost.example.com:1", False), ("dns:///example.com:1", False), ("0.0.0.0:1", False),
        ("xds:///localhost:1", False), ("127.0.0.1.example.com:1", False),
        ("dns:localhost:1", True), ("dns:[::1]:1", True), ("dns:a:1", False),
        ("dns://10.9.9.9/localhost:1", False), ("dns://10.9.9.9:53/127.0.0.1:1", False),
    ],
)  # fmt: skip
def test_a_token_never_leaves_this_machine_in_plaintext(target, stays):
    """Refused before a connection is made, by either client."""
    assert is_loopback_target(target) == stays
    if stays:
        Client(target, token=SEARCHER).close()
    else:
        with pytest.raises(InvalidArgumentError, match="in plaintext"):
            Client(target, token=SEARCHER)


@pytest.mark.parametrize(
    "target",
    ["dns:///10.9.9.9:50051?/127.0.0.1:1", "dns:///10.9.9.9:50051#/127.0.0.1:1",
     "dns:10.9.9.9:50051?x/localhost:1", "dns:///127.0.0.1%2eexample.com:1",
     "ipv4:10.9.9.9:50051?x:1,127.0.0.1:1"],
)  # fmt: skip
def test_a_target_that_grpc_reads_otherwise_gets_no_token(target):
    """gRPC ends an address at `?` or `#` and decodes `%`: the host is not the last one."""
    assert not is_loopback_target(target)
    with pytest.raises(InvalidArgumentError):
        check_credentials(target, Credentials(token=SEARCHER))
    with pytest.raises(InvalidArgumentError):
        Client(target, token=SEARCHER)


@pytest.mark.parametrize("variable", ["grpc_proxy", "https_proxy", "http_proxy"])
async def test_a_token_goes_by_no_proxy_to_this_machine(server_on, tokens, monkeypatch, variable):
    """gRPC heeds proxies for loopback too, and a plaintext token would leave by one."""
    seen = asyncio.Event()

    async def notice(reader, writer):
        seen.set()
        writer.close()

    proxy = await asyncio.start_server(notice, "127.0.0.1", 0)
    port = proxy.sockets[0].getsockname()[1]
    for name in ("no_proxy", "no_grpc_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(variable, f"http://127.0.0.1:{port}")
    async with proxy, server_on(tokens=tokens) as target:
        async with AsyncClient(target, token=SEARCHER) as client:
            assert (await client.search(vector=VECTOR)).index == "hidden"

        def ask():
            with Client(target, token=SEARCHER) as client:
                return client.search(vector=VECTOR).index

        assert await asyncio.to_thread(ask) == "hidden"
        assert not seen.is_set()
        async with open_channel("search.example.com:1") as channel:
            # as everywhere else, the way out is the operator's to say
            call = channel.unary_unary(SEARCH)(b"", timeout=20)
            await asyncio.wait_for(seen.wait(), 20)
            call.cancel()


def test_no_repr_shows_a_token():
    """What is printed by accident ends in logs."""
    assert SEARCHER not in repr(Credentials(token=SEARCHER))
