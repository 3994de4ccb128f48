"""A cluster that serves an index from S3: moto's server, real processes, a copy each machine."""

import json
import os
import signal

import numpy as np
import pytest
from fakes.known_vectors import DIM, Axes
from fakes.s3 import SECRET, s3_bucket, s3_server, s3fs

from deploy.cli.main import run
from deploy.state import read_state
from shard_server.building import BuildOptions, Passage, build_index
from shard_server.building.progress import silent
from shoal.client import Client
from shoal.errors import UnavailableError
from shoal.formats.local_copy import LocalCopy
from shoal.formats.remote_push import push_index
from shoal.formats.remote_store import open_remote

pytestmark = pytest.mark.end_to_end


def build(index_dir, recipe: str = "Flat") -> int:
    """The next version; every title says which."""
    version = 1 + len([*index_dir.glob("versions/0*")])
    passages = [
        Passage(id=f"p{i}", title=f"v{version}", text=str(i), where=f"made-up:{i}")
        for i in range(DIM)
    ]
    options = BuildOptions(name="tiny", n_shards=2, recipe=recipe, overwrite=True)
    return build_index(index_dir, passages, Axes(), options).version


@pytest.fixture
def push(tmp_path, monkeypatch):
    """`push()`: the next version, built and pushed; its URL. In a bucket of this test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("SHOAL_ROUTER__RELEASE_AFTER_S", "0.2")

    def push_next() -> str:
        build(tmp_path / "index")
        push_index(tmp_path / "index", open_remote("s3://shoal-up/tiny"), silent)
        return "s3://shoal-up/tiny"

    with s3_server() as environment, s3_bucket(environment, monkeypatch, "shoal-up"):
        yield push_next


def ask(target: str) -> int:
    """The version that answers, rightly and whole."""
    with Client(target) as client:
        client.wait_ready(timeout_s=60)
        answer = client.search(vector=np.eye(DIM, dtype=np.float32)[3], k=1, timeout_s=60)
    assert [(hit.id, hit.title) for hit in answer.hits] == [("p3", f"v{answer.version}")]
    assert answer.coverage == 1.0
    return answer.version


def ask_if_whole(target: str) -> int:
    """As `ask`; 0 where a shard is not back yet."""
    try:
        return ask(target)
    except UnavailableError:
        return 0


def test_a_cluster_serves_a_url_and_moves_when_told(push, shoal, state_home, tmp_path, eventually):
    """Pushed, served, pushed again, killed and restarted, reloaded; a broken push is refused."""
    url = push()
    up = shoal("up", "--index", url, "--port", "0", "--detach")
    assert up.returncode == 0, up.stderr
    state = read_state("default")
    assert ask(state.target) == 1

    push()
    (shard,) = [process for process in state.processes if process.name == "shard-1a"]
    os.kill(shard.pid, signal.SIGKILL)
    eventually(lambda: {p.name: p.n_restarts for p in read_state("default").processes}["shard-1a"])
    assert eventually(lambda: ask_if_whole(state.target)) == 1

    moved = shoal("reload", "--json")
    assert moved.returncode == 0, moved.stderr
    assert (json.loads(moved.stdout)["old"], json.loads(moved.stdout)["version"]) == (1, 2)
    assert ask(state.target) == 2

    push()
    copy = LocalCopy.of(url, tmp_path / "cache" / "shoal" / "indexes")
    entry = copy.ask(None).shards[0].segments[0].files.passages
    key = f"shoal-up/tiny/{entry.path}"
    s3fs.S3FileSystem().pipe_file(key, s3fs.S3FileSystem().cat_file(key)[:-1])
    refused = shoal("reload")
    assert refused.returncode == 78, refused.stderr
    assert f"{url}/{entry.path}: {entry.n_bytes - 1} bytes" in refused.stderr
    assert ask(state.target) == 2

    remembered = [path for path in state_home.rglob("*") if path.is_file()]
    assert len(remembered) >= 5
    assert all(SECRET.encode() not in path.read_bytes() for path in remembered)
    assert shoal("down").returncode == 0


def test_a_url_is_looked_at_from_anywhere(push, capsys, tmp_path):
    """inspect copies, verify reads where it lies, versions lists; building needs a folder."""
    url = push()
    push()
    assert run(["index", "versions", "--index", url, "--json"]) == 0
    assert [version["version"] for version in json.loads(capsys.readouterr().out)] == [1, 2]
    assert run(["index", "inspect", "--index", url, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["version"] == 2
    assert run(["index", "verify", "--index", url]) == 0
    assert f"{url}: sound; version 2 is live, 2 versions" in capsys.readouterr().out
    assert run(["index", "calibrate", "--index", url]) == 78
    assert "shoal index pull" in capsys.readouterr().err
    assert not (tmp_path / "s3:").exists()


@pytest.mark.parametrize("arguments", [
    ["up", "--index", "https://ann:hunter2@127.0.0.1:1/tiny"],
    ["up", "--index", "s3://bucket/tiny?key=hunter2"],
    ["index", "verify", "--index", "nosuch://ann:hunter2@h/tiny"],
    ["index", "versions", "--index", "http://ann:hunter2@127.0.0.1:1/tiny"],
    ["index", "pull", "http://ann:hunter2@127.0.0.1:1/tiny?key=hunter2", "--index", "x"],
])  # fmt: skip
def test_no_message_shows_a_password(arguments, capsys, state_home, tmp_path, monkeypatch):
    """Whether the URL is refused or can't be reached."""
    monkeypatch.chdir(tmp_path)
    assert run(arguments) != 0
    told = capsys.readouterr()
    assert "***" in told.err
    assert "hunter2" not in told.err + told.out
    assert not state_home.exists()
