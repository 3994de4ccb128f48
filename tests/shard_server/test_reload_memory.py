"""What a reload costs a shard process in memory, as the kernel counts it."""

import json
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Self

import numpy as np
import pytest

from shard_server.building import BuildOptions, Passage, build_index
from shoal import vectors
from shoal.formats.manifest import Manifest
from shoal.formats.versions import commit_version, load_manifest
from shoal.internal.v1 import shard_pb2 as pb
from shoal.internal.v1 import shard_pb2_grpc
from shoal.rpc.channel import open_sync_channel

pytestmark = pytest.mark.end_to_end

DIM = 1_024
N_PASSAGES = 30_000
N_VERSIONS = 4
SLACK = 0.2


class Noise:
    """Vectors that nothing is expected of but their size."""

    contract = None
    dim = DIM

    def __init__(self) -> None:
        self._rng = np.random.default_rng(3)

    def __call__(self, titles, texts):
        return self._rng.standard_normal((len(texts), DIM), dtype=np.float32)


@pytest.fixture(scope="module")
def index_dir(tmp_path_factory) -> Path:
    """Versions of 31 MB of codes each; they share their files, which no process can tell."""
    folder = tmp_path_factory.mktemp("memory") / "index"
    passages = [Passage(id=f"p{i}", title="", text="-", where="-") for i in range(N_PASSAGES)]
    options = BuildOptions(name="noise", recipe="IVF16,SQ8", max_training_vectors=1_000)
    manifest = build_index(folder, passages, Noise(), options)
    for version in range(2, N_VERSIONS + 1):
        commit_version(folder, manifest.model_copy(update={"version": version}))
    return folder


@pytest.fixture
def server(index_dir, tmp_path):
    """A shard process over version 1: its pid, and a stub for it."""
    address_file = tmp_path / "address.json"
    process = subprocess.Popen(
        [sys.executable, "-m", "shard_server", "--index", str(index_dir), "--shard", "0",
         "--version", "1", "--address-file", str(address_file), "--device", "cpu"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        until(address_file.exists)
        address = json.loads(address_file.read_text())["address"]
        with open_sync_channel(address) as channel:
            stub = shard_pb2_grpc.ShardServiceStub(channel)
            until(lambda: len(stub.GetShard(pb.GetShardRequest(), timeout=10).versions) == 1)
            yield process.pid, stub
    finally:
        process.terminate()
        process.wait(60)


def until(condition) -> None:
    deadline_s = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline_s
        time.sleep(0.02)


def anonymous_mb(pid: int) -> float:
    """RssAnon: what is the process's own; mapped files are the page cache's."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("RssAnon:")[1].split()[0]) / 1024


def own_mb(manifest: Manifest) -> float:
    """What one version holds in memory: codes with their row numbers, and ordinals."""
    index = manifest.shards[0].segments[0].files.index
    assert index is not None
    return (index.n_bytes + 8 * manifest.n_rows) / 2**20


class Highest:
    """The most that `anonymous_mb` says inside the block, looked at every few milliseconds."""

    def __init__(self, pid: int) -> None:
        self._pid, self._ended = pid, threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self.mb = 0.0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        self._look()  # once at least, however seldom the thread had its turn

    def _watch(self) -> None:
        while not self._ended.wait(0.002):
            self._look()

    def _look(self) -> None:
        self.mb = max(self.mb, anonymous_mb(self._pid))


def search(stub, version: int) -> None:
    queries = np.eye(DIM, dtype=np.float32)[:8]
    request = pb.SearchShardRequest(
        index="noise", version=version, k=10, n_probe=16, candidates=100,
        query_vectors=vectors.to_proto(queries),
    )  # fmt: skip
    assert stub.SearchShard(request, timeout=30).n_queries == 8


def test_a_reload_holds_two_versions_at_most_and_gives_one_back(server, index_dir):
    """At the peak both versions and a fifth; afterwards one, and no more after three reloads."""
    pid, stub = server
    of_version = own_mb(load_manifest(index_dir, 1))
    for _ in range(3):
        search(stub, 1)
    before = anonymous_mb(pid)
    for version in range(2, N_VERSIONS + 1):
        with Highest(pid) as highest:
            stub.LoadVersion(pb.LoadVersionRequest(index="noise", version=version), timeout=60)
            search(stub, version)
        assert highest.mb > before + of_version / 2, "the version was not loaded in memory"
        assert highest.mb <= before + of_version + SLACK * 2 * of_version
        release = pb.ReleaseVersionRequest(index="noise", version=version - 1)
        stub.ReleaseVersion(release, timeout=60)
        search(stub, version)
        after = anonymous_mb(pid)
        assert after <= before + SLACK * of_version
