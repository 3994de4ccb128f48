"""How full a GPU's memory is, told without waking one."""

import importlib.util

import pytest

from shoal.rpc.gpu_memory import GpuMemory, GpuMemoryGauges, device_number, read_gpu_memory


def test_only_gpus_that_are_used_are_told():
    """A device without a context on it, or none at all, has no series: 0 bytes would be a lie."""
    known = {1: GpuMemory(used=3, total=8)}
    gauges = GpuMemoryGauges(known.get)
    assert not list(gauges.collect())
    gauges.watched = frozenset({0, 1})
    samples = [sample for family in gauges.collect() for sample in family.samples]
    assert {(s.name, s.labels["device"], s.value) for s in samples} == {
        ("shoal_gpu_memory_used_bytes", "cuda:1", 3),
        ("shoal_gpu_memory_total_bytes", "cuda:1", 8),
    }
    gauges.watched = frozenset({0})
    assert not list(gauges.collect())


def test_the_driver_is_not_asked_to_register():
    """That would be at the start, and on every test of whether two metrics have one name."""

    def never(number):
        raise AssertionError

    names = [family.name for family in GpuMemoryGauges(never).describe()]
    assert names == ["shoal_gpu_memory_used_bytes", "shoal_gpu_memory_total_bytes"]


@pytest.mark.parametrize(
    ("device", "number"), [("cpu", None), ("cuda", 0), ("cuda:0", 0), ("cuda:12", 12)]
)
def test_devices_are_numbered_as_the_process_does(device, number):
    """The wire's names are the labels."""
    assert device_number(device) == number


def test_without_a_context_nothing_is_told():
    """Neither on a machine without a GPU, nor in a process that computes on none."""
    assert read_gpu_memory(97) is None


@pytest.mark.gpu
@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="needs torch")
def test_the_driver_says_what_torch_does():
    """torch asks the same driver by its runtime; it must be in use first, and stay usable."""
    import torch

    if not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    held = torch.ones(1 << 20, device="cuda:0")
    told = read_gpu_memory(0)
    free, total = torch.cuda.mem_get_info(0)
    assert told is not None
    assert told.total == total
    assert abs(told.used - (total - free)) <= 256 << 20  # of other processes, meanwhile
    assert float(held.sum()) == 1 << 20
