"""A router and a shard that know each other by mutual TLS and the cluster's token."""

import subprocess
import sys

import grpc
import pytest
import yaml

from router.config import RouterConfig
from router.shard_client import ShardClient
from shoal.credentials import Credentials
from shoal.errors import ConfigError, InvalidArgumentError, UnauthenticatedError
from shoal.internal.v1 import shard_pb2, shard_pb2_grpc
from shoal.rpc.access import AccessFiles, Guard
from shoal.rpc.certificates import CertificateFiles, ServerCertificates
from shoal.rpc.interceptor import ShoalInterceptor
from shoal.rpc.limits import server_options
from shoal.rpc.tokens import entry_of, new_token


class Shard(shard_pb2_grpc.ShardServiceServicer):
    async def GetShard(self, request, context):
        return shard_pb2.GetShardResponse(shard=3)


async def test_a_router_shows_its_certificate_and_token(tmp_path, authority, localhost):
    """Both are asked for by the shard, and both come from the router's settings."""
    secret = tmp_path / "internal"
    secret.write_text(new_token())
    mine = authority.sign("router", "router")
    files = CertificateFiles(
        certificate=localhost.certificate, key=localhost.key, client_ca=authority.file
    )
    guard = Guard(AccessFiles(internal_token=secret))
    server = grpc.aio.server(interceptors=(ShoalInterceptor(guard),), options=server_options())
    shard_pb2_grpc.add_ShardServiceServicer_to_server(Shard(), server)
    port = server.add_secure_port("127.0.0.1:0", ServerCertificates(files).credentials())
    await server.start()
    shown = {
        "topology": tmp_path / "none.json",
        "peer_tls_ca": authority.file,
        "peer_tls_certificate": mine.certificate,
        "peer_tls_key": mine.key,
    }
    try:
        for settings, known in (({**shown, "peer_token_file": secret}, True), (shown, False)):
            config = RouterConfig(**settings)
            client = ShardClient(
                f"127.0.0.1:{port}", inline_hits=0, credentials=config.peer_credentials
            )
            try:
                if known:
                    assert (await client.describe(10.0))[0] == 3
                else:
                    with pytest.raises(UnauthenticatedError):
                        await client.describe(10.0)
            finally:
                await client.close()
    finally:
        await server.stop(None)


async def test_the_cluster_token_is_not_sent_abroad_in_plaintext(tmp_path):
    """Shards elsewhere need TLS; the router says so when it reads their addresses."""
    secret = tmp_path / "internal"
    secret.write_text(new_token())
    config = RouterConfig(topology=tmp_path / "t", peer_token_file=secret)
    with pytest.raises(InvalidArgumentError, match="in plaintext"):
        ShardClient("10.0.0.1:1", inline_hits=0, credentials=config.peer_credentials)


def test_a_token_file_that_cannot_be_read_is_told(tmp_path):
    """Naming the file, and never what is in it."""
    empty = tmp_path / "empty"
    empty.write_text("\n")
    for path in (empty, tmp_path / "none"):
        with pytest.raises(ConfigError, match=str(path)):
            _ = RouterConfig(topology=tmp_path / "t", peer_token_file=path).peer_credentials


def test_the_routers_token_is_exchanged_without_a_refusal(tmp_path):
    """Two entries at once: routers restart one by one, and each one's token is taken meanwhile."""
    old, new = new_token(), new_token()
    path, scopes = tmp_path / "peers.yaml", ["encode", "admin"]
    entries = [entry_of("routers-1", old, scopes, None), entry_of("routers-2", new, scopes, None)]
    path.write_text(yaml.safe_dump({"tokens": entries[:1]}))
    guard = Guard(AccessFiles(tokens=path))

    def taken(token, now_s):
        metadata = Credentials(token=token).metadata
        methods = ("/shoal.internal.v1.ShardService/SearchShard", "/shoal.v1.EncoderService/Encode")
        return all(guard.judge(method, metadata, now_s).refusal is None for method in methods)

    assert (taken(old, 10.0), taken(new, 10.0)) == (True, False)
    path.write_text(yaml.safe_dump({"tokens": entries}))
    assert (taken(old, 12.0), taken(new, 12.0)) == (True, True)
    path.write_text(yaml.safe_dump({"tokens": entries[1:]}))
    assert (taken(old, 14.0), taken(new, 14.0)) == (False, True)


@pytest.mark.parametrize("setting", ["peer_tls_certificate", "peer_tls_key", "peer_server_name"])
def test_half_given_peer_tls_is_refused(tmp_path, setting):
    """Without its authority it would be plaintext, though somebody asked for TLS."""
    config = RouterConfig(topology=tmp_path / "t", **{setting: "given"})
    with pytest.raises(ConfigError, match=f"^{setting} is for TLS"):
        _ = config.peer_credentials


def test_wrong_peer_settings_end_the_start(tmp_path):
    """In one line, and before any topology names a peer to use them with."""
    done = subprocess.run(
        [sys.executable, "-m", "router", "--topology", str(tmp_path / "none.json"),
         "--peer-tls-key", "given"],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == ConfigError.exit_code
    assert done.stderr.startswith("router: error: peer_tls_key is for TLS")
    assert done.stderr.count("\n") == 1
