"""Several routers behind TLS and tokens: each address must carry what one would."""

import asyncio

import grpc
import numpy as np
import pytest

from shoal.client import AsyncClient, Client
from shoal.credentials import Tls
from shoal.errors import ConfigError, UnavailableError
from shoal.rpc.handshake import TLS_HANDSHAKE, handshake_fault, probe

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


async def test_a_certificate_for_another_name_says_for_which(server_on, authority):
    """Whoever reads it must learn which name was looked for: that of a list too."""
    secured = credentials_of(authority.sign("other", "routers.example"))
    async with server_on(secured) as one, server_on(secured) as two:
        for target, server_name, wanted in (
            (listed(one, two), "", "127.0.0.1"),
            (listed(one), "", "127.0.0.1"),
            (f"dns:///{one}", "", "localhost"),
            (listed(one, two), "search.example", "search.example"),
        ):
            tls = Tls(ca=authority.file, server_name=server_name)
            async with AsyncClient(target, tls=tls) as client:
                with pytest.raises(UnavailableError, match=f"is not for '{wanted}'"):
                    await client.search(vector=VECTOR)


async def test_a_second_look_follows_a_name_and_not_a_list(server_on, localhost):
    """One address tells for itself; of several, one would be taken for all."""
    async with server_on(credentials_of(localhost)) as one:
        for target in (f"dns:///{one}", listed(one), one):
            assert "speaks TLS" in await asyncio.to_thread(probe, target, None, 10.0)
        assert await asyncio.to_thread(probe, listed(one, one), None, 10.0) == ""


def test_what_names_no_host_is_named_itself():
    """A resolver of the target's own: there is no host to tell, and '' would say nothing."""
    told = handshake_fault("Hostname Verification Check failed", "dns://10.0.0.1/a:1", Tls())
    assert "is not for 'dns://10.0.0.1/a:1'" in told


def test_several_hosts_in_tls_need_a_name(authority):
    """gRPC compares one name with every certificate; which one is not to be guessed."""
    with pytest.raises(ConfigError, match="server_name"):
        Client("ipv4:10.0.0.1:1,10.0.0.2:1", tls=Tls(ca=authority.file))
