"""`shoal up` with TLS and tokens: the whole cluster closed, and what its own user can do."""

import asyncio
import json
import os
import stat
import subprocess
import sys
import time
from pathlib import Path

import grpc
import numpy as np
import pytest
from fakes.known_vectors import build_axes

from deploy.reload import reload_cluster
from deploy.state import ClusterState, paths_of, read_state
from shoal.client import Client
from shoal.credentials import Credentials, Tls, read_token
from shoal.errors import PermissionDeniedError, UnauthenticatedError, UnavailableError
from shoal.internal.v1 import shard_pb2, shard_pb2_grpc
from shoal.rpc.channel import open_sync_channel

pytestmark = pytest.mark.end_to_end

ROOT = Path(__file__).resolve().parents[2]
VECTOR = np.eye(8, dtype=np.float32)[3]


@pytest.fixture(scope="module")
def tiny_index(tmp_path_factory) -> Path:
    return build_axes(tmp_path_factory.mktemp("tiny") / "index")


@pytest.fixture
def shoal(tmp_path, monkeypatch):
    """The command in a process of its own; ends what it left running."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    # a process that gets no core for a while is not to be left out for it
    monkeypatch.setenv("SHOAL_ROUTER__CHECK_TIMEOUT_S", "20")

    def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "deploy.cli.main", *arguments], capture_output=True, text=True,
            timeout=150, check=False, cwd=ROOT, env={**os.environ, **environment},
        )  # fmt: skip

    yield run
    run("down", "--timeout-s", "5")


def test_a_closed_cluster_lets_in_who_it_should(shoal, tiny_index, authority, localhost, tmp_path):
    """One cluster for all: TLS and tokens outside, its own token inside, no secret in any log."""
    tokens = tmp_path / "tokens.yaml"
    made = {}
    for name, scopes in (("website", "search"), ("ops", "admin")):
        done = shoal("token", "new", "--scopes", scopes, "--name", name, "--file", str(tokens))
        assert done.returncode == 0, done.stderr
        made[name] = done.stdout.strip()
    assert not any(token in tokens.read_text() for token in made.values())
    assert stat.S_IMODE(tokens.stat().st_mode) == 0o600

    up = shoal(
        "up", "--index", str(tiny_index), "--port", "0", "--detach", "--json",
        "--tls-certificate", str(localhost.certificate), "--tls-key", str(localhost.key),
        "--tokens", str(tokens),
    )  # fmt: skip
    assert up.returncode == 0, up.stderr
    state = read_state("default")
    target = state.target

    # from outside
    tls = Tls(ca=authority.file)
    with Client(target, token=made["website"], tls=tls) as client:
        assert [hit.id for hit in client.search(vector=VECTOR, k=1).hits] == ["p3"]
    with Client(target, tls=tls) as client, pytest.raises(UnauthenticatedError):
        client.search(vector=VECTOR)
    with Client(target, token=made["ops"], tls=tls) as client, pytest.raises(PermissionDeniedError):
        client.search(vector=VECTOR)
    with Client(target) as client, pytest.raises(UnavailableError, match="speaks TLS"):
        client.search(vector=VECTOR)

    # its processes: a shard answers nobody without the cluster's own token
    internal_file = paths_of("default").internal_token
    assert stat.S_IMODE(internal_file.stat().st_mode) == 0o600
    internal = read_token(internal_file)
    shard = next(p for p in state.processes if p.role == "shard")
    with open_sync_channel(shard.address) as channel:
        stub = shard_pb2_grpc.ShardServiceStub(channel)
        with pytest.raises(grpc.RpcError) as told:
            stub.GetShard(shard_pb2.GetShardRequest(), timeout=30)
        assert told.value.code() is grpc.StatusCode.UNAUTHENTICATED
        assert "tiny" not in told.value.details()
    for process in state.processes:
        for what in ("cmdline", "environ"):
            assert internal.encode() not in Path(f"/proc/{process.pid}/{what}").read_bytes()

    # this user's own commands need nothing; another's need what they are given
    end_s = time.monotonic() + 60
    while (status := shoal("status", "--json")).returncode != 0:  # each process has 2 s to answer
        assert time.monotonic() < end_s, status.stdout + status.stderr
    assert shoal("reload").returncode == 0
    refused = shoal("reload", SHOAL_TOKEN=made["website"])
    assert refused.returncode == PermissionDeniedError.exit_code
    assert "lacks the scope 'admin'" in refused.stderr

    assert shoal("down").returncode == 0
    assert not internal_file.exists()
    logs = list(paths_of("default").folder.glob("*.log"))
    text = "".join(log.read_text() for log in logs)
    assert text.count("AdminService/ReloadIndex") >= 2
    assert '"who": "website"' in text
    assert not any(secret in text for secret in (*made.values(), internal))
    router_log = next(log for log in logs if log.name.startswith("router"))
    for line in router_log.read_text().splitlines():
        if line.startswith("{"):
            json.loads(line)


async def test_a_reload_without_the_certificate_says_what_is_missing(
    server_on, tiny_index, authority, localhost
):
    """gRPC says "Socket closed", which names nothing that its user could give."""
    pair = (localhost.key.read_bytes(), localhost.certificate.read_bytes())
    mutual = grpc.ssl_server_credentials([pair], authority.file.read_bytes(), True)
    async with server_on(mutual) as target:
        state = ClusterState(
            name="none", pid=1, started=1, phase="ready", target=target, version=1, processes=(),
            index_dir=str(tiny_index), index="tiny",
        )  # fmt: skip
        shown = Credentials(tls=Tls(ca=authority.file))
        with pytest.raises(UnavailableError, match="asks for a client certificate"):
            await asyncio.to_thread(reload_cluster, state, None, 20.0, shown)
