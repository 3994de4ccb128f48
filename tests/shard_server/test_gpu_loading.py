"""A GPU loads its next version aside: own resources, own thread, handed over when warm."""

import asyncio
import threading

import numpy as np
import pytest

from shard_server import versions as versions_module
from shard_server.devices import FaissGpu, GpuBackend, count_gpus
from shard_server.index import ShardIndex
from shard_server.limits import SearchParameters
from shard_server.search_thread import SearchThread
from shard_server.source import FolderSource
from shard_server.versions import Versions
from shoal.rpc.deadline import Deadline

BOTH = ("cpu", "cuda")
ASK = SearchParameters(k=10, n_probe=8, candidates=100)


class StandInGpu:
    """Clones nothing; its resources remember who used them, and a clone can be held up."""

    def __init__(self) -> None:
        self.users: list[set[int]] = []
        self.open = threading.Event()
        self.open.set()
        self.cloning = threading.Event()
        self.fails = False

    def resources(self, temp_bytes):
        self.users.append({threading.get_ident()})
        return self.users[-1]

    def clone(self, resources, device, index, *, float16_tables):
        resources.add(threading.get_ident())
        self.cloning.set()
        assert self.open.wait(100)
        if self.fails:
            raise RuntimeError("out of memory")
        return index


@pytest.fixture
def gpu(monkeypatch):
    api = StandInGpu()
    monkeypatch.setattr(versions_module, "count_gpus", lambda: 1)
    monkeypatch.setattr(
        versions_module,
        "open_backend",
        lambda device, temp_bytes: GpuBackend(0, temp_bytes=temp_bytes, api=api),
    )
    return api


@pytest.fixture
async def opened(tmp_path, write_index, gpu):
    """Version 1 open on the stand-in, version 2 in the folder: (versions, thread)."""
    write_index(tmp_path, n_rows=300, devices=BOTH)
    write_index(tmp_path, n_rows=400, devices=BOTH)
    thread = SearchThread(max_queued=8)
    versions = Versions(
        FolderSource(tmp_path, verify=True), 0, device="cuda", gpu_temp_bytes=1 << 30, thread=thread
    )
    await versions.open_first(1)
    yield versions, thread
    gpu.open.set()
    await versions.close()
    await thread.close()


async def search(thread, index, queries):
    work = lambda is_wanted: index.search(queries, ASK, is_wanted)  # noqa: E731
    return (await thread.search(work, n_queries=len(queries), deadline=Deadline.after(30))).value


async def test_the_old_version_is_searched_while_the_next_one_loads(opened, gpu, corpus):
    """Copying and compiling take a GPU seconds; no search may wait for them."""
    versions, thread = opened
    gpu.open.clear()
    gpu.cloning.clear()
    loading = asyncio.ensure_future(versions.load("tiny", 2))
    assert await asyncio.to_thread(gpu.cloning.wait, 60)
    (old,) = versions.open_indexes
    hits = await search(thread, old, corpus.queries[:4])
    assert (hits.ordinals >= 0).all()
    assert not loading.done()
    gpu.open.set()
    new = await loading
    assert len(gpu.users) == 2  # a version's resources are its own
    for index in (old, new):
        await search(thread, index, corpus.queries[:4])
    await versions.release("tiny", 1)
    await search(thread, new, corpus.queries[:4])


async def test_a_version_that_does_not_fit_leaves_the_old_one_serving(opened, gpu, corpus):
    """A full GPU is found out aside, where it costs nobody an answer."""
    versions, thread = opened
    gpu.fails = True
    with pytest.raises(Exception, match="out of memory"):
        await versions.load("tiny", 2)
    (old,) = versions.open_indexes
    await search(thread, old, corpus.queries[:4])


def test_what_is_handed_over_has_one_owner_again():
    """Handing over is the owner's to do, and the next one is as jealous."""
    backend = GpuBackend(0, temp_bytes=1 << 20, api=StandInGpu())
    backend.enter()
    raised = []

    def intrude():
        try:
            backend.hand_over()
        except AssertionError as failure:
            raised.append(failure)

    intruder = threading.Thread(target=intrude)
    intruder.start()
    intruder.join()
    assert raised
    backend.hand_over()
    taker = threading.Thread(target=backend.enter)
    taker.start()
    taker.join()
    with pytest.raises(AssertionError):
        backend.enter()


needs_gpu = pytest.mark.skipif(not count_gpus(), reason="faiss sees no GPU")


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("metric", ["inner_product", "l2"])
@pytest.mark.parametrize("recipe", ["IVF32,PQ16", "IVF32,PQ64", "IVF32,Flat"])
def test_candidates_alone_score_as_on_the_cpu(
    tmp_path, corpus, write_index, open_shard, recipe, metric
):
    """Without rescoring a GPU's scores are the codes' own: the CPU's to 1e-3, ids up to ties."""
    manifest = write_index(tmp_path, recipe, metric=metric, devices=BOTH)
    backend = GpuBackend(0, temp_bytes=256 << 20, api=FaissGpu())
    gpu, cpu = open_shard(tmp_path, manifest, backend=backend), open_shard(tmp_path, manifest)
    ask = SearchParameters(k=10, n_probe=16)
    found, wanted = gpu.search(corpus.queries, ask), cpu.search(corpus.queries, ask)
    near = np.abs(found.scores - wanted.scores) <= 1e-3 * np.maximum(1, np.abs(wanted.scores))
    assert near.mean() > 0.999
    differ = found.ordinals != wanted.ordinals
    assert near[differ].all()
    gpu.close()


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("n_queries", [1, 17, 200])
def test_little_temporary_memory_changes_no_answer(
    tmp_path, corpus, write_index, open_shard, n_queries
):
    """Batches are split until they fit; faiss would allocate slowly, or fail, otherwise."""
    manifest = write_index(tmp_path, "IVF32,PQ16", devices=BOTH)
    found = []
    for temp_bytes in (1 << 20, 1 << 30):
        backend = GpuBackend(0, temp_bytes=temp_bytes, api=FaissGpu())
        index = open_shard(tmp_path, manifest, backend=backend)
        found.append(index.search(corpus.queries[:n_queries], ASK))
        index.close()
    np.testing.assert_array_equal(found[0].scores, found[1].scores)


@pytest.mark.gpu
@needs_gpu
def test_two_versions_are_searched_from_two_threads(tmp_path, corpus, write_index, open_shard):
    """Each has its own resources, so loading one beside the other corrupts neither."""
    manifest = write_index(tmp_path, "IVF32,PQ16", devices=BOTH)
    first = GpuBackend(0, temp_bytes=64 << 20, api=FaissGpu())
    index = open_shard(tmp_path, manifest, backend=first)
    wanted = index.search(corpus.queries, ASK)
    found = []

    def load():
        own = first.another()
        other = ShardIndex.place(manifest, 0, ShardIndex.read(tmp_path, manifest, 0), own)
        other.warm_up()
        found.extend(other.search(corpus.queries, ASK) for _ in range(20))
        other.close()

    loader = threading.Thread(target=load)
    loader.start()
    while loader.is_alive():
        np.testing.assert_array_equal(index.search(corpus.queries, ASK).scores, wanted.scores)
    loader.join()
    assert len(found) == 20
    for hits in found:
        np.testing.assert_array_equal(hits.scores, wanted.scores)
    index.close()


@pytest.mark.gpu
@needs_gpu
def test_the_widest_search_fits_the_gpu(tmp_path, corpus, write_index, open_shard):
    """k and candidates at their limits are what `limits` promises for every device."""
    manifest = write_index(tmp_path, "IVF32,PQ16", devices=BOTH)
    backend = GpuBackend(0, temp_bytes=1 << 30, api=FaissGpu())
    gpu, cpu = open_shard(tmp_path, manifest, backend=backend), open_shard(tmp_path, manifest)
    for ask in (
        SearchParameters(k=1000, n_probe=32, candidates=2048),
        SearchParameters(k=1000, n_probe=2048),
    ):
        found, wanted = gpu.search(corpus.queries, ask), cpu.search(corpus.queries, ask)
        np.testing.assert_allclose(found.scores, wanted.scores, atol=1e-3)
    gpu.close()
