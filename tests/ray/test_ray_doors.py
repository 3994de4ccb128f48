"""A closed cluster on Ray: TLS and tokens on every address, and where its own token is."""

import hashlib
import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import grpc
import numpy as np
import pytest
import trustme
from faults.processes import free_port

from deploy.access import local_credentials
from deploy.state import read_state
from shoal.client import Client
from shoal.credentials import read_token
from shoal.errors import UnauthenticatedError
from shoal.internal.v1 import shard_pb2, shard_pb2_grpc

pytestmark = [pytest.mark.ray, pytest.mark.timeout(300)]

VECTOR = np.eye(8, dtype=np.float32)[3]


@pytest.fixture
def door(tmp_path) -> list[str]:
    """The flags of a door with one certificate for all nodes, and a token that may search."""
    authority = trustme.CA()
    made = authority.issue_cert("shoal.test")
    ca, certificate, key = (tmp_path / name for name in ("ca.pem", "node.pem", "node.key"))
    authority.cert_pem.write_to_path(str(ca))
    certificate.write_bytes(b"".join(pem.bytes() for pem in made.cert_chain_pems))
    key.write_bytes(made.private_key_pem.bytes())
    tokens = tmp_path / "tokens.yaml"
    digest = hashlib.sha256(b"searcher-token").hexdigest()
    tokens.write_text(f"tokens:\n  - name: searcher\n    sha256: {digest}\n    scopes: [search]\n")
    return ["--tls-certificate", str(certificate), "--tls-key", str(key), "--tls-ca", str(ca),
            "--tls-server-name", "shoal.test", "--tokens", str(tokens)]  # fmt: skip


def test_a_closed_cluster_answers_who_shows_a_token_and_hides_its_own(
    on_ray, ray_head, ray_state_home, axes_index, door, monkeypatch
):
    """The token that its processes share is in files of mode 0600, and nowhere that Ray shows."""
    monkeypatch.setenv("XDG_STATE_HOME", str(ray_state_home))
    up = on_ray("up", "--on", "ray", "--index", str(axes_index), "--name", "closed", *door,
                "--json")  # fmt: skip
    assert up.returncode == 0, up.stderr
    target = json.loads(up.stdout)["target"]
    state = read_state("closed")
    own = local_credentials(state)
    with Client(target, token="searcher-token", tls=own.tls) as client:
        assert [hit.id for hit in client.search(vector=VECTOR, k=1).hits] == ["p3"]
    with Client(target, tls=own.tls) as client, pytest.raises(UnauthenticatedError):
        client.search(vector=VECTOR, k=1)
    shard = next(p for p in state.processes if p.role == "shard")
    with grpc.insecure_channel(shard.address) as channel, pytest.raises(grpc.RpcError):
        shard_pb2_grpc.ShardServiceStub(channel).GetShard(shard_pb2.GetShardRequest(), timeout=5)
    assert on_ray("status", "--name", "closed").returncode == 0

    token = read_token(Path(state.internal_token))
    files = list(ray_state_home.rglob("*.token"))
    assert len(files) == 4
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}
    shown = [path for path in ray_head.folder.rglob("*") if path.is_file()]
    shown += [path for path in ray_state_home.rglob("*") if path.is_file() and path not in files]
    leaks = [path for path in shown if token.encode() in path.read_bytes()]
    assert not leaks
    assert not ray_head.pids(token)
    assert on_ray("down", "--name", "closed").returncode == 0
    assert not list(ray_state_home.rglob("*.token"))


def test_a_door_that_stands_open_is_refused_in_one_line(on_ray, axes_index):
    """Before anything is deployed: an address that others reach needs TLS and tokens."""
    up = on_ray("up", "--on", "ray", "--index", str(axes_index), "--host", "0.0.0.0")
    assert up.returncode == 78
    assert "--insecure" in up.stderr
    assert up.stderr.count("\n") == 1


def test_a_replica_that_cannot_start_says_why_in_one_line(on_ray, axes_index, tmp_path):
    """The child's own last words come through the supervisor, Serve and the command."""
    import shutil

    broken = tmp_path / "broken"
    shutil.copytree(axes_index, broken)
    victim = next(broken.glob("data/*/vectors.faiss"))
    victim.write_bytes(victim.read_bytes()[:-1] + b"\xff")
    up = on_ray("up", "--on", "ray", "--index", str(broken), "--name", "broken")
    assert up.returncode != 0
    error = up.stderr.strip().splitlines()[-1]
    assert error.startswith("shoal: error: shard-")
    assert "vectors.faiss" in error
    assert "Traceback" not in up.stderr
    assert on_ray("status", "--name", "broken").returncode == 69


def test_what_no_node_has_room_for_is_said_long_before_the_time_is_over(on_ray, axes_index):
    """Serve waits for ever without a word: for CPUs that no node has, and for a second router."""
    up = on_ray(
        "up", "--on", "ray", "--index", str(axes_index), "--name", "large", "--shard-cpus", "20",
        "--routers", "2", "--port", str(free_port()), "--start-timeout-s", "20",
    )  # fmt: skip
    assert up.returncode == 69
    lines = up.stderr.strip().splitlines()
    waiting = [line for line in lines if "waiting for room" in line]
    assert len(waiting) == 1
    assert "shard-0: room for 0 of 1 more (each needs 20 CPU)" in waiting[0]
    assert "router: room for 0 of 1 more" in waiting[0]
    assert "shard-0 runs 0 of 1" in lines[-1]
    assert "room for 0 of 1" in lines[-1]
    assert on_ray("status", "--name", "large").returncode == 69


def test_a_start_that_is_ended_leaves_nothing_on_ray(ray_head, on_ray, axes_index):
    """SIGTERM, as an operator's tools send it: as Ctrl-C, without Ray's stack."""
    start = [sys.executable, "-m", "deploy.cli.main", "up", "--on", "ray", "--name", "ended",
             "--index", str(axes_index), "--shard-cpus", "20"]  # fmt: skip
    with subprocess.Popen(
        start, stderr=subprocess.PIPE, text=True, env={**os.environ, **ray_head.environment}
    ) as up:
        assert up.stderr is not None
        assert any("waiting for room" in line for line in up.stderr)
        up.terminate()
        assert up.wait(60) == 130
        assert up.stderr.read() == "shoal: error: interrupted\n"
    found = on_ray("attach", "--on", "ray", "--name", "ended")
    assert found.returncode != 0
    assert "ended" in found.stderr
