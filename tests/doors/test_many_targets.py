"""Several routers behind TLS and tokens: each address must carry what one would."""

import grpc
import numpy as np
import pytest

from shoal.client import AsyncClient, Client
from shoal.credentials import Tls
from shoal.errors import ConfigError, UnavailableError
from shoal.rpc.handshake import TLS_HANDSHAKE

VECTOR = np.ones(4, np.float32)


def credentials_of(files):
    return grpc.ssl_server_credentials([(files.key.read_bytes(), files.certificate.read_bytes())])


def listed(*targets):
    return "ipv4:" + ",".join(target.replace("localhost", "127.0.0.1") for target in targets)


async def test_a_list_is_served_in_tls(server_on, authority, localhost):
    """The certificates carry the host that the addresses have in common."""
    secured = credentials_of(localhost)
    async with server_on(secured) as one, server_on(secured) as two:
        client = AsyncClient(listed(one, two), tls=Tls(ca=authority.file))
        for _ in range(4):
            assert (await client.search(vector=VECTOR)).index == "hidden"
        await client.close()


async def test_a_list_may_go_by_one_name(server_on, authority):
    """Routers that share a certificate for a name that is none of their addresses."""
    secured = credentials_of(authority.sign("shared", "routers.example"))
    async with server_on(secured) as one, server_on(secured) as two:
        tls = Tls(ca=authority.file, server_name="routers.example")
        async with AsyncClient(listed(one, two), tls=tls) as client:
            assert (await client.search(vector=VECTOR)).index == "hidden"


async def test_a_list_nobody_of_which_is_trusted_says_why(server_on, stranger, localhost):
    """The handshake's fault is told, as for one router, and is not tried again."""
    secured = credentials_of(localhost)
    async with server_on(secured) as one, server_on(secured) as two:
        client = AsyncClient(listed(one, two), tls=Tls(ca=stranger.file))
        with pytest.raises(UnavailableError, match="not signed by") as caught:
            await client.search(vector=VECTOR)
        assert caught.value.reason == TLS_HANDSHAKE
        await client.close()


def test_several_hosts_in_tls_need_a_name(authority):
    """gRPC compares one name with every certificate; which one is not to be guessed."""
    with pytest.raises(ConfigError, match="server_name"):
        Client("ipv4:10.0.0.1:1,10.0.0.2:1", tls=Tls(ca=authority.file))
