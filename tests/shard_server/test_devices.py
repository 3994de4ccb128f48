"""Choosing a device, and one thread for a GPU; what needs a GPU is marked so."""

import threading

import faiss
import numpy as np
import pytest

from shard_server.devices import (
    CpuBackend,
    FaissGpu,
    GpuBackend,
    PlacedIndex,
    choose_device,
    count_gpus,
)
from shard_server.limits import SearchParameters
from shoal.errors import ConfigError, UnavailableError

BOTH = ("cpu", "cuda")


class FakeGpu:
    """Clones nothing; remembers who asked and how."""

    def __init__(self, *, full: bool = False) -> None:
        self.full = full
        self.threads: set[int] = set()
        self.n_resources = 0
        self.float16_tables: list[bool] = []

    def resources(self, temp_bytes):
        self.threads.add(threading.get_ident())
        self.n_resources += 1
        return object()

    def clone(self, resources, device, index, *, float16_tables):
        self.threads.add(threading.get_ident())
        self.float16_tables.append(float16_tables)
        if self.full:
            raise RuntimeError("Error in alloc\nout of memory")
        return index


@pytest.mark.parametrize(("requested", "n_gpus", "devices", "chosen"), [
    ("auto", 0, BOTH, "cpu"), ("auto", 2, BOTH, "cuda:0"), ("auto", 2, ("cpu",), "cpu"),
    ("cpu", 2, BOTH, "cpu"), ("cuda", 1, BOTH, "cuda:0"), ("cuda:1", 2, BOTH, "cuda:1"),
])  # fmt: skip
def test_the_device_follows_request_index_and_machine(requested, n_gpus, devices, chosen):
    """`auto` takes a GPU only where there is one and the index allows it."""
    assert choose_device(requested, n_gpus=n_gpus, devices=devices) == chosen


@pytest.mark.parametrize(("requested", "n_gpus", "devices", "says"), [
    ("cuda:0", 1, ("cpu",), "run with --device cpu, or build it --for gpu"),
    ("cpu", 1, ("cuda",), "run with --device cuda, or build it --for cpu"),
    ("cuda:2", 1, BOTH, "faiss sees 1 GPUs"),
    ("cuda", 0, BOTH, "shard-gpu"),
])  # fmt: skip
def test_a_device_that_can_not_serve_is_refused_with_advice(requested, n_gpus, devices, says):
    """The error says what to run instead."""
    with pytest.raises(ConfigError, match=says):
        choose_device(requested, n_gpus=n_gpus, devices=devices)


def test_only_one_thread_touches_the_gpu(tmp_path, corpus, write_index, open_shard):
    """The thread that placed the index owns the device: a search from any other is our bug."""
    gpu = FakeGpu()
    backend = GpuBackend(0, temp_bytes=1 << 30, api=gpu)
    manifest = write_index(tmp_path, n_segments=2, devices=BOTH)
    index = open_shard(tmp_path, manifest, backend=backend)
    parameters = SearchParameters(k=10, n_probe=8, candidates=100)
    index.search(corpus.queries[:1], parameters)
    raised = []

    def intrude() -> None:
        for touch in (lambda: index.search(corpus.queries[:1], parameters), index.close):
            try:
                touch()
            except AssertionError as failure:
                raised.append(str(failure))

    intruder = threading.Thread(target=intrude)
    intruder.start()
    intruder.join()
    assert len(raised) == 2
    assert gpu.threads == {threading.get_ident()}
    assert gpu.n_resources == 1
    assert gpu.float16_tables == [False, False]


def test_answers_do_not_depend_on_how_batches_are_split(tmp_path, corpus, write_index, open_shard):
    """With room for few queries at a time, the GPU's path gives what the CPU's gives."""
    manifest = write_index(tmp_path, devices=BOTH)
    cpu = open_shard(tmp_path, manifest)
    backend = GpuBackend(0, temp_bytes=1 << 20, api=FakeGpu())
    gpu = open_shard(tmp_path, manifest, backend=backend)
    parameters = SearchParameters(k=10, n_probe=8, candidates=100)
    assert gpu._queries_a_call(parameters) < 20
    wanted = cpu.search(corpus.queries, parameters)
    found = gpu.search(corpus.queries, parameters)
    np.testing.assert_array_equal(found.scores, wanted.scores)
    np.testing.assert_array_equal(found.ordinals, wanted.ordinals)


def test_queries_a_call_fit_the_temporary_memory():
    """n_queries x n_probe is bounded by the memory; one query always goes."""
    placed = PlacedIndex(None, temp_bytes_a_probe=1 << 20, temp_bytes=1 << 30)
    assert placed.queries_a_call(64) == 16
    assert placed.queries_a_call(2048) == 1
    assert CpuBackend().place(None).queries_a_call(2048) == 1024


@pytest.mark.parametrize(("recipe", "dim", "float16"), [
    ("IVF1,PQ48", 96, False), ("IVF1,PQ64", 64, True), ("IVF1,PQ96", 96, True),
    ("IVF1,Flat", 8, False), ("IVF1,SQ8", 8, False),
])  # fmt: skip
def test_long_codes_need_float16_tables(recipe, dim, float16):
    """Codes of 56, 64 and 96 bytes fit a GPU's shared memory in float16 only; no other does so."""
    gpu = FakeGpu()
    GpuBackend(0, temp_bytes=1 << 30, api=gpu).place(faiss.index_factory(dim, recipe))
    assert gpu.float16_tables == [float16]


@pytest.mark.parametrize("recipe", ["IVF1,PQ16x4fs", "IVF1,PQ10", "IVF1,PQ160", "PQ16"])
def test_codes_that_no_gpu_searches_are_refused(recipe):
    """The refusal comes before the GPU is asked for memory."""
    gpu = FakeGpu()
    with pytest.raises(ConfigError, match="can't be searched on a GPU"):
        GpuBackend(0, temp_bytes=1 << 30, api=gpu).place(faiss.index_factory(160, recipe))
    assert not gpu.n_resources


def test_a_full_gpu_is_one_clear_error():
    """faiss's own text is long; the error says which device and what to do."""
    backend = GpuBackend(1, temp_bytes=1 << 30, api=FakeGpu(full=True))
    with pytest.raises(UnavailableError, match=r"cuda:1 can't hold.*out of memory.*--device cpu"):
        backend.place(faiss.index_factory(64, "IVF1,PQ16"))


@pytest.mark.gpu
@pytest.mark.skipif(not count_gpus(), reason="faiss sees no GPU")
@pytest.mark.parametrize("recipe", ["IVF32,PQ16", "IVF32,PQ64", "IVF32,SQ8"])
def test_a_real_gpu_finds_what_the_cpu_finds(tmp_path, corpus, write_index, open_shard, recipe):
    """Rescored scores are bit-equal on both devices; candidates may differ at the edge."""
    manifest = write_index(tmp_path, recipe, devices=BOTH)
    backend = GpuBackend(0, temp_bytes=64 << 20, api=FaissGpu())
    gpu, cpu = open_shard(tmp_path, manifest, backend=backend), open_shard(tmp_path, manifest)
    gpu.warm_up()
    parameters = SearchParameters(k=10, n_probe=16, candidates=200)
    found, wanted = gpu.search(corpus.queries, parameters), cpu.search(corpus.queries, parameters)
    same = found.ordinals == wanted.ordinals
    assert same.mean() > 0.99
    np.testing.assert_array_equal(found.scores[same], wanted.scores[same])
    exact = SearchParameters(k=10, exact=True)
    np.testing.assert_array_equal(
        gpu.search(corpus.queries, exact).scores, cpu.search(corpus.queries, exact).scores
    )
    gpu.close()
