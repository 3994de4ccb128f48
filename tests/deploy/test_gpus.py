"""Several GPUs on one machine: one shard's process each."""

from pathlib import Path

import pytest

from deploy.gpus import gpu_for, gpus_of
from deploy.plan import IndexFacts, UpOptions, plan_backends

FILES = ["nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm", "null"]


@pytest.mark.parametrize(("environment", "files", "gpus"), [
    ({}, FILES, ("0", "1")),
    ({}, ["null"], ()),
    ({"CUDA_VISIBLE_DEVICES": "2, 3"}, FILES, ("2", "3")),
    ({"CUDA_VISIBLE_DEVICES": "GPU-8f1a,GPU-77c0"}, FILES, ("GPU-8f1a", "GPU-77c0")),
    ({"CUDA_VISIBLE_DEVICES": ""}, FILES, ()),
    ({"CUDA_VISIBLE_DEVICES": "-1"}, FILES, ()),
    ({"CUDA_VISIBLE_DEVICES": "0,-1,1"}, FILES, ("0",)),
])  # fmt: skip
def test_the_gpus_are_those_that_cuda_would_show(environment, files, gpus):
    """An operator who hides a GPU from Shoal has a reason: what CUDA hides is not handed out."""
    assert gpus_of(environment, files) == gpus


def test_a_named_device_is_left_alone():
    """`cuda:1` means the machine's second GPU, and `cpu` none; renumbering would change both."""
    for device in ("cpu", "cuda:1"):
        assert gpu_for(device, ("0", "1"), 1) == {}
    assert gpu_for(None, (), 1) == {}


@pytest.mark.parametrize("device", [None, "auto", "cuda"])
def test_shard_processes_take_the_gpus_in_turn(device):
    """Four processes on three GPUs: each sees one, and no GPU gets two before all have one."""
    options = UpOptions(name="c", index_dir=Path("i"), replicas=2, device=device)
    index = IndexFacts(name="i", version=1, n_shards=2, encoder_model="m")
    specs = plan_backends(options, index, 8, gpus=("4", "5", "6"))
    seen = [s.environment.get("CUDA_VISIBLE_DEVICES") for s in specs if s.role == "shard"]
    assert seen == ["4", "5", "6", "4"]
    (encoder,) = (spec for spec in specs if spec.role == "encoder")
    assert "CUDA_VISIBLE_DEVICES" not in encoder.environment
