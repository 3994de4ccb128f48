"""Which share of a GPU one replica of a shard needs, by the index's own plan."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from deploy.ray.counts import deployments_of
from deploy.ray.options import RayOptions
from shoal.errors import ConfigError, FailedPreconditionError

if TYPE_CHECKING:
    from shoal.formats.manifest import Manifest

_STEPS = 10_000
"""Ray counts a device in ten-thousandths."""


def gpu_share(shard_bytes: int, gpu_bytes: int) -> float:
    """The `num_gpus` that a replica reserves: above 0, at most 1, rounded up. Pure.

    Args:
        shard_bytes: what a shard's process holds on its GPU at its peak, while it reloads.
        gpu_bytes: one GPU's memory.

    Raises:
        ConfigError: one GPU does not hold a shard.
    """
    if shard_bytes > gpu_bytes:
        raise ConfigError(
            f"a shard needs {shard_bytes / 1e9:,.1f} GB of GPU memory while it reloads and "
            f"--gpu-memory is {gpu_bytes / 1e9:,.1f} GB; build the index with more --shards or "
            "smaller codes"
        )
    return math.ceil(_STEPS * shard_bytes / gpu_bytes) / _STEPS


def shard_gpu_bytes(manifest: "Manifest") -> int:
    """What the largest shard of this version needs on a GPU at its peak, in bytes.

    Raises:
        ConfigError: the index can't be served from a GPU.
    """
    from shard_server.building.plan import peak_gpu_bytes  # noqa: PLC0415 -- with GPUs alone
    from shard_server.building.recipe import Recipe  # noqa: PLC0415 -- with GPUs alone

    if "cuda" not in manifest.devices:
        raise ConfigError(
            f"index {manifest.name!r} was built for {', '.join(manifest.devices)}; leave out "
            "--gpu-memory, or build it with --for gpu"
        )
    recipe = Recipe.parse(manifest.recipe, manifest.dim)
    n_rows = max(sum(segment.n_rows for segment in shard.segments) for shard in manifest.shards)
    return peak_gpu_bytes(recipe, n_rows=n_rows, dim=manifest.dim, metric=manifest.metric)


def shard_gpus(options: RayOptions) -> float:
    """GPUs of a shard's replica: as told, or by the plan of the live version.

    Raises:
        ConfigError: a shard doesn't fit a GPU, or the index can't be served from one.
    """
    if options.gpu_memory_bytes is None:
        return options.shard_gpus
    return gpu_share(shard_gpu_bytes(options.place.manifest()), options.gpu_memory_bytes)


def refuse_too_large(
    manifest: "Manifest", config: Mapping[str, Any], deployments: Mapping[str, Any]
) -> None:
    """Refuses a version whose shards need more of a GPU than running replicas have reserved. Pure.

    Args:
        manifest: of the version.
        config: the application's entry, as it was applied.
        deployments: by name, as Serve's details have them.

    Raises:
        FailedPreconditionError: with what to run first.
        ConfigError: one GPU does not hold a shard, or the version can't be served from one.
    """
    gpu_bytes = config.get("args", {}).get("gpu_memory_bytes")
    if not gpu_bytes:
        return
    needed = gpu_share(shard_gpu_bytes(manifest), gpu_bytes)
    reserved = min(
        (float(deployments[name]["required_resources"].get("GPU", 0.0))
         for name in deployments_of("shard", list(deployments))),
        default=needed,
    )  # fmt: skip
    if needed > reserved + 0.5 / _STEPS:
        raise FailedPreconditionError(
            f"version {manifest.version} needs {needed:g} of a GPU for each shard and its replicas "
            f"have {reserved:g}: reserve more first, with 'shoal up --on ray' as before and "
            f"--shard-gpus {needed:g} in place of --gpu-memory, then reload"
        )
