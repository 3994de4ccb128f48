"""Whether another version's shards fit the share of a GPU that running replicas reserved."""

from types import SimpleNamespace

import pytest

from deploy.ray.gpu_share import gpu_share, refuse_too_large, shard_gpu_bytes
from shoal.errors import FailedPreconditionError

GPU_BYTES = 24 * 10**9


def version(number, n_rows):
    shards = [SimpleNamespace(segments=[SimpleNamespace(n_rows=n_rows)])]
    return SimpleNamespace(name="wiki", version=number, devices=("cpu", "cuda"), recipe="SQ8",
                           dim=384, metric="inner_product", shards=shards)  # fmt: skip


def deployments(share):
    """As Serve's details have them."""
    return {
        "shard-0": {"required_resources": {"CPU": 1.0, "GPU": share}},
        "router": {"required_resources": {"CPU": 1.0}},
    }


def test_a_version_that_has_outgrown_its_share_is_refused_before_any_router_moves():
    """Ray placed replicas by the old share: the new version would not fit beside its neighbour."""
    config = {"args": {"gpu_memory_bytes": GPU_BYTES}}
    old, new = version(1, 5_000_000), version(2, 10_000_000)
    reserved = gpu_share(shard_gpu_bytes(old), GPU_BYTES)
    refuse_too_large(old, config, deployments(reserved))
    needed = gpu_share(shard_gpu_bytes(new), GPU_BYTES)
    with pytest.raises(FailedPreconditionError, match=rf"--shard-gpus {needed:g} in place"):
        refuse_too_large(new, config, deployments(reserved))
    refuse_too_large(new, config, deployments(needed))


def test_a_share_of_the_operators_own_choice_is_not_judged():
    """Without the GPU's memory there is nothing to judge by."""
    refuse_too_large(version(2, 10**9), {"args": {"shard_gpus": 0.1}}, deployments(0.1))
