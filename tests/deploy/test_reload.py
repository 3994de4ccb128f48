"""A running cluster moves to another version under load, or stays where it is."""

import asyncio
import contextlib
import json
import os
import shutil
import signal
import time

import numpy as np
import pytest

from deploy.state import read_state
from shard_server.building import BuildOptions, Passage, add_passages, build_index
from shoal.contract import EncoderContract, TowerContract
from shoal.formats.history import prune_versions, roll_back
from shoal.formats.versions import load_manifest
from shoal.rpc.channel import open_channel
from shoal.v1 import search_pb2, search_pb2_grpc, vectors_pb2

pytestmark = pytest.mark.end_to_end

DIM = 8
N_PASSAGES = 200
RATE, MOST_UNDER_WAY = 50, 40


class Axes:
    """Passage i's vector is axis i % 8, made longer by i: all scores are known."""

    dim = DIM

    def __init__(self, fingerprint: str = "") -> None:
        tower = TowerContract(
            fingerprint=fingerprint, dim=DIM, max_tokens=9, pooling="mean", normalized=False
        )
        contract = EncoderContract(model="axes", question=tower, passage=tower)
        self.contract = contract if fingerprint else None

    def __call__(self, titles, texts):
        numbers = [int(text) for text in texts]
        return np.stack([np.eye(DIM, dtype=np.float32)[i % DIM] * (1 + i) for i in numbers])


def build(index_dir, n_shards: int = 2, encode=None) -> int:
    """The next version; every passage's title is the version's number."""
    version = 1 + (load_manifest(index_dir).version if (index_dir / "CURRENT").exists() else 0)
    passages = [
        Passage(id=f"p{i}", title=f"v{version}", text=str(i), where=f"made-up:{i}")
        for i in range(N_PASSAGES)
    ]
    options = BuildOptions(name="tiny", n_shards=n_shards, recipe="Flat", overwrite=True)
    return build_index(index_dir, passages, encode or Axes(), options).version


@contextlib.contextmanager
def running(folder, run_shoal):
    """A cluster over the folder's `index`; its state is in the folder too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(folder / "state"))
        patch.setenv("SHOAL_ROUTER__RELEASE_AFTER_S", "0.2")
        # a process that gets no core for a while is not to be left out for it
        patch.setenv("SHOAL_ROUTER__CHECK_TIMEOUT_S", "20")
        try:
            up = run_shoal("up", "--index", str(folder / "index"), "--port", "0", "--detach")
            assert up.returncode == 0, up.stderr
            yield folder
        finally:
            run_shoal("down", "--timeout-s", "5")


@pytest.fixture(scope="module")
def at_version_1(tmp_path_factory, run_shoal):
    """A running cluster of two shards over version 1, which tests leave there: its folder."""
    folder = tmp_path_factory.mktemp("at-1")
    build(folder / "built")
    shutil.copytree(folder / "built", folder / "index")
    with running(folder, run_shoal):
        yield folder


@pytest.fixture(scope="module")
def moving(tmp_path_factory, run_shoal):
    """A running cluster of two shards that tests move from version to version: its folder."""
    folder = tmp_path_factory.mktemp("moving")
    build(folder / "index")
    with running(folder, run_shoal):
        yield folder


@pytest.fixture
def index_at_1(at_version_1, shoal, monkeypatch):
    """The folder of the running cluster's index, as it was built; `shoal` finds the cluster."""
    monkeypatch.setenv("XDG_STATE_HOME", str(at_version_1 / "state"))
    shutil.rmtree(at_version_1 / "index")
    shutil.copytree(at_version_1 / "built", at_version_1 / "index")
    return at_version_1 / "index"


@pytest.fixture
def index_dir(moving):
    """The index of `cluster`."""
    return moving / "index"


@pytest.fixture
def cluster(moving, index_dir, shoal, monkeypatch):
    """The running cluster, at a version that was built for this test alone."""
    monkeypatch.setenv("XDG_STATE_HOME", str(moving / "state"))
    if read_state("default").version > 1:
        build(index_dir)
        assert shoal("reload").returncode == 0
    return read_state("default")


def request_of(axis: int) -> search_pb2.SearchRequest:
    """Ten hits of two shards."""
    vector = np.eye(DIM, dtype="<f4")[axis].tobytes()
    packed = vectors_pb2.Vectors(
        n_rows=1, dim=DIM, dtype=vectors_pb2.VECTOR_DTYPE_FLOAT32, packed=vector
    )
    return search_pb2.SearchRequest(queries=[search_pb2.Query(vector=packed)], k=10)


def check(answer: search_pb2.SearchResponse, axis: int) -> int:
    """The version of an answer that is right, whole and of that version alone."""
    (result,) = answer.results
    best = [i for i in reversed(range(N_PASSAGES)) if i % DIM == axis][:10]
    assert [hit.passage.id for hit in result.hits] == [f"p{i}" for i in best]
    assert {hit.passage.title for hit in result.hits} == {f"v{answer.version}"}
    assert answer.coverage == 1.0
    return answer.version


async def ask(target: str) -> int:
    async with open_channel(target) as channel:
        stub = search_pb2_grpc.SearchServiceStub(channel)
        return check(await stub.Search(request_of(3), timeout=60, wait_for_ready=True), 3)


async def under_load(target: str, work) -> tuple[list[int], list[float], object]:
    """Runs `work` in a thread under 50 searches a second, none of which is retried.

    Fewer where the machine answers fewer: overload is another test's. Returns the answers'
    versions in the order of asking, their times in ms, and `work`'s result.
    """
    async with open_channel(target) as channel:
        stub = search_pb2_grpc.SearchServiceStub(channel)

        async def search(number: int) -> tuple[int, float]:
            begun_s = time.perf_counter()
            async with room:
                answer = await stub.Search(request_of(number % DIM), timeout=60)
            return check(answer, number % DIM), 1e3 * (time.perf_counter() - begun_s)

        searches, room = [], asyncio.Semaphore(MOST_UNDER_WAY)
        working = asyncio.create_task(asyncio.to_thread(work))
        begun_s = time.monotonic()
        while not working.done() or len(searches) < RATE // 2:
            searches.append(asyncio.create_task(search(len(searches))))
            due_s = begun_s + len(searches) / RATE
            await asyncio.sleep(max(0.0, due_s - time.monotonic()))
        # and one that is asked of what `work` has left
        searches.append(asyncio.create_task(search(len(searches))))
        answers = await asyncio.gather(*searches)
    return [version for version, _ in answers], [ms for _, ms in answers], working.result()


async def test_three_reloads_under_load_lose_and_mix_nothing(cluster, index_dir, shoal, eventually):
    """50 searches a second, never retried: every answer is right and of one version."""

    def reload_thrice() -> None:
        for _ in range(3):
            version = build(index_dir)
            done = shoal("reload", "--json")
            assert done.returncode == 0, done.stderr
            assert json.loads(done.stdout)["version"] == version

    versions, times_ms, _ = await under_load(cluster.target, reload_thrice)
    assert versions == sorted(versions)
    last = cluster.version + 3
    assert set(versions) == set(range(cluster.version, last + 1))
    print(f"{len(versions)} searches, p50 {np.median(times_ms):.1f} ms, worst {max(times_ms):.0f}")
    assert read_state("default").version == last
    prune_versions(index_dir, keep=1)
    eventually(lambda: open_versions(shoal) == {last})
    assert await ask(cluster.target) == last


def open_versions(shoal) -> set[int]:
    processes = json.loads(shoal("status", "--json").stdout)["processes"]
    return {version for process in processes for version in process["versions"]}


async def test_what_restarts_after_a_reload_serves_the_new_version(
    cluster, index_dir, shoal, eventually
):
    """Shard and router, killed in turn, while CURRENT and pruning have moved on."""
    served = build(index_dir)
    assert shoal("reload").returncode == 0
    live = build(index_dir)
    pruned = shoal("index", "prune", "--index", str(index_dir))
    assert f"kept: {served}, {live}" in pruned.stdout
    for name in ("shard-0a", "router"):
        pid = {p.name: p.pid for p in read_state("default").processes}[name]
        os.kill(pid, signal.SIGKILL)
        eventually(lambda pid=pid: pid not in {p.pid for p in read_state("default").processes})
        eventually(lambda: shoal("status").returncode == 0)
        assert await ask(cluster.target) == served


async def test_an_addition_reaches_the_cluster(cluster, index_dir, shoal):
    """The new segment is searched beside the old one, and its passage comes with its text."""
    new = Passage(id="new", title="added", text=str(N_PASSAGES + 3), where="made-up:1")
    assert (N_PASSAGES + 3) % DIM == 3
    add_passages(index_dir, [new], Axes())
    assert shoal("reload").returncode == 0
    async with open_channel(cluster.target) as channel:
        stub = search_pb2_grpc.SearchServiceStub(channel)
        answer = await stub.Search(request_of(3), timeout=60)
    hits = answer.results[0].hits
    assert (answer.version, answer.coverage) == (cluster.version + 1, 1.0)
    assert [hit.passage.id for hit in hits[:3]] == ["new", "p195", "p187"]
    assert hits[0].passage.title == "added"
    assert sum(shard.n_live for shard in answer.shards) == N_PASSAGES + 1


async def test_a_rollback_reaches_the_cluster(cluster, index_dir, shoal):
    """An older content under a new number, and back to the live one without naming it."""
    newer = build(index_dir)
    assert shoal("reload").returncode == 0
    roll_back(index_dir)
    done = shoal("reload")
    assert f"from version {newer} to {newer + 1}" in done.stdout
    again = shoal("reload")
    assert again.returncode == 0
    assert f"at version {newer + 1} already" in again.stdout


def corrupt(index_dir) -> None:
    build(index_dir)
    vectors = index_dir / load_manifest(index_dir).shards[1].segments[0].files.passages.path
    content = bytearray(vectors.read_bytes())
    content[len(content) // 2] ^= 1
    vectors.write_bytes(content)


def alter_manifest(index_dir) -> None:
    build(index_dir)
    manifest = index_dir / "versions" / "000002" / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"seed": 0', '"seed": 1'))


def other_index(index_dir) -> None:
    shutil.rmtree(index_dir)
    passages = [Passage(id="a", title="", text="1", where="x:1")]
    build_index(index_dir, passages, Axes(), BuildOptions(name="other", n_shards=2))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (corrupt, "passages.arrow"),
        (lambda d: build(d, n_shards=3), "3 shards"),
        (lambda d: build(d, encode=Axes("stranger")), "encoder stranger"),
        (alter_manifest, "altered"),
        (other_index, "'other'"),
    ],
    ids=["corrupt", "shards", "encoder", "manifest", "other"],
)
async def test_a_version_that_does_not_fit_is_refused(index_at_1, shoal, eventually, change, told):
    """One line that says why; no search fails meanwhile, and nothing of it stays open."""

    def reload():
        change(index_at_1)
        return shoal("reload")

    versions, _, refused = await under_load(read_state("default").target, reload)
    assert set(versions) == {1}
    assert refused.returncode == 78
    assert told in refused.stderr
    assert refused.stderr.count("\n") == 1
    assert read_state("default").version == 1
    eventually(lambda: open_versions(shoal) == {1})


def test_a_reload_without_a_cluster_is_one_line(shoal):
    """It says how to start one."""
    done = shoal("reload")
    assert done.returncode == 69
    assert "shoal up" in done.stderr


async def test_a_version_that_is_not_there_is_refused(index_at_1, shoal):
    """The manifest is looked for before anybody is asked."""
    done = shoal("reload", "--version", "7")
    assert done.returncode == 78
    assert "versions here: (1,)" in done.stderr
    assert await ask(read_state("default").target) == 1
