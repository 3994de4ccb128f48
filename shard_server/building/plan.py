"""Which recipes an index could have, what each needs, and what fits where. Pure.

Rule: what will not fit is said with its figures and a way out; figures that were measured once say
where. Bytes are `cost`'s business. Must not read files or ask a device.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from shard_server.building.cost import Cost, cost_of, gpu_bytes
from shard_server.building.recipe import (
    Recipe,
    default_n_lists,
    n_training_vectors,
)
from shard_server.limits import GPU_CODE_SIZES, MAX_N_PROBE
from shoal.errors import ConfigError
from shoal.formats.manifest import Metric

MAX_TRAINING_VECTORS = 200_000
"""`BuildOptions`' bound, in vectors."""
GPU_TEMP_BYTES = 1 << 30
"""`gpu_temp_mib`'s default."""
CUDA_BYTES = 512 << 20
"""What a CUDA context and faiss's kernels take before any index."""
PROCESS_BYTES = 150 << 20
"""A shard process with faiss and pyarrow loaded and no index."""
LOADED_VERSIONS = 2
"""While a reload is under way, the old version and the new one."""

_LISTS_FLOPS = 100e9
_CODES_FLOPS = {4: 20e9, 8: 2.5e9}
"""k-means, two cores of an AMD EPYC: long vectors for lists, short pieces of them for codes."""

N_PROBE_FOR_RECALL = ((0.87, 1 / 32), (0.93, 1 / 16), (0.97, 1 / 8), (0.99, 1 / 4), (0.995, 1 / 2))
"""Recall@10 by share of the lists: WordNet's glosses by MiniLM, IVF512,PQ96x4fs, 100 candidates."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What is to be built, and where it is to fit. Bytes None: no such limit.

    `memory_bytes` and `gpu_memory_bytes` are one machine's and one GPU's; `passage_bytes` is a
    passage's id, title, text and metadata. `n_shards` None takes the fewest that fit.
    """

    n_passages: int
    dim: int
    recall: float = 0.95
    metric: Metric = "inner_product"
    n_shards: int | None = None
    memory_bytes: int | None = None
    gpu_memory_bytes: int | None = None
    passage_bytes: int = 600


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One recipe's plan. `cost` is the whole index's, `shard` one shard's.

    `host_bytes` and `gpu_bytes` are what a shard process needs at its peak, a reload; `gpu_bytes`
    is None on a CPU. `replicas` is how many copies of the whole index fit `n_shards` machines (or
    GPUs) of the given size; 0 where one shard doesn't fit, None without limits. `faults` says what
    will not fit and what to change. `n_probe` and `oversample` are where to begin calibrating;
    `training_bytes` is the sample, and the sample as transformed.
    """

    recipe: str
    device: str
    code_bytes: int
    bytes_a_vector: float
    n_probe: int
    oversample: float
    cost: Cost
    shard: Cost
    n_shards: int
    host_bytes: int
    gpu_bytes: int | None
    replicas: int | None
    n_training_vectors: int
    training_bytes: int
    training_s: float
    faults: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def fits(self) -> bool:
        """Whether nothing speaks against it."""
        return not self.faults


def make_plans(wish: Wish) -> list[Plan]:
    """A plan for each recipe worth considering, those that fit first.

    Raises:
        ConfigError: a wish that no index can meet.
    """
    if wish.n_passages < 1 or wish.dim < 1:
        raise ConfigError("--passages and --dim must be at least 1")
    if not 0 < wish.recall <= 1:
        raise ConfigError(f"--recall is {wish.recall}; it must be above 0 and at most 1")
    plans = [_plan(wish, text, device) for text, device in _considered(wish)]
    return sorted(plans, key=lambda plan: not plan.fits)


def n_probe_for(recall: float, n_lists: int) -> int:
    """Lists to start calibrating from; 0 without lists."""
    if not n_lists:
        return 0
    recalls, shares = zip(*N_PROBE_FOR_RECALL, strict=True)
    share = float(np.exp(np.interp(recall, recalls, np.log(shares)))) if recall < 0.999 else 1.0
    return min(n_lists, MAX_N_PROBE, max(1, round(share * n_lists)))


def peak_gpu_bytes(recipe: Recipe, *, n_rows: int, dim: int, metric: Metric) -> int:
    """What a shard process of `n_rows` rows takes of its GPU at most: while it reloads."""
    cost = cost_of(recipe, n_rows=n_rows, dim=dim, metric=metric, passage_bytes=0)
    held = gpu_bytes(recipe, cost, n_rows=n_rows)
    return LOADED_VERSIONS * (held + GPU_TEMP_BYTES) + CUDA_BYTES


def _considered(wish: Wish) -> Iterator[tuple[str, str]]:
    """Recipes and the device they are meant for; only such as parse and can be trained."""
    n_shards = wish.n_shards or 1
    n_lists = default_n_lists(n_passages=wish.n_passages, n_shards=n_shards)
    ivf = f"IVF{n_lists}"
    quarter = _code_size(wish.dim, wish.dim // 4)
    eighth = _code_size(wish.dim, wish.dim // 8)
    half_dim = max(1, wish.dim // 2)
    half = _code_size(half_dim, half_dim // 2)
    texts = [
        "Flat", "SQ8", f"PQ{quarter}x4fs", f"{ivf},Flat", f"{ivf},SQ8", f"{ivf},PQ{quarter}x4fs",
        f"OPQ{quarter},{ivf},PQ{quarter}x4fs", f"PCA{half_dim},{ivf},PQ{half}x4fs",
        f"{ivf},PQ{quarter}", f"{ivf},PQ{eighth}",
    ]  # fmt: skip
    for text in dict.fromkeys(texts):
        recipe = Recipe.parse(text, wish.dim)
        if wish.n_passages < recipe.min_training_vectors:
            continue
        if wish.memory_bytes is not None or wish.gpu_memory_bytes is None:
            yield text, "cpu"
        if recipe.n_lists and "cuda" in recipe.devices and wish.gpu_memory_bytes is not None:
            yield text, "cuda"


def _code_size(dim: int, at_most: int) -> int:
    """The largest code size up to `at_most` that divides `dim`, a GPU's where there is one."""
    at_most = max(1, at_most)
    legal = max(size for size in GPU_CODE_SIZES if dim % size == 0 and size <= at_most)
    any_size = max(size for size in range(1, at_most + 1) if dim % size == 0)
    return legal if 2 * legal > any_size else any_size


def _plan(wish: Wish, text: str, device: str) -> Plan:
    recipe = Recipe.parse(text, wish.dim)

    def cost(n_rows: int) -> Cost:
        return cost_of(
            recipe,
            n_rows=n_rows,
            dim=wish.dim,
            metric=wish.metric,
            passage_bytes=wish.passage_bytes,
        )

    def needs(n_shards: int) -> tuple[Cost, int, int | None]:
        n_rows = _largest_shard(wish.n_passages, n_shards)
        shard = cost(n_rows)
        on_gpu = None
        if device == "cuda":
            on_gpu = peak_gpu_bytes(recipe, n_rows=n_rows, dim=wish.dim, metric=wish.metric)
        return shard, _host_bytes(shard, device), on_gpu

    n_shards = wish.n_shards or _fewest_shards(wish, needs)
    shard, host, on_gpu = needs(n_shards)
    whole = cost(wish.n_passages)
    n_sample = n_training_vectors(recipe, n_passages=wish.n_passages, at_most=MAX_TRAINING_VECTORS)
    return Plan(
        recipe=text,
        device=device,
        code_bytes=recipe.code_bytes,
        bytes_a_vector=whole.index / wish.n_passages,
        n_probe=n_probe_for(wish.recall, recipe.n_lists),
        oversample=0.0 if not recipe.is_trained else 10.0 if wish.recall <= 0.96 else 20.0,
        cost=whole,
        shard=shard,
        n_shards=n_shards,
        host_bytes=host,
        gpu_bytes=on_gpu,
        replicas=_replicas(wish, host, on_gpu),
        n_training_vectors=n_sample,
        training_bytes=4 * n_sample * (wish.dim + (recipe.code_dim if recipe.transform else 0)),
        training_s=_training_s(recipe, n_sample),
        faults=tuple(_faults(wish, n_shards, host, on_gpu)),
        notes=tuple(_notes(wish, n_shards, shard, host)),
    )


def _largest_shard(n_passages: int, n_shards: int) -> int:
    """Rows of the fullest of shards filled by hash: the mean and three deviations."""
    if n_shards == 1:
        return n_passages
    mean = n_passages / n_shards
    return min(n_passages, math.ceil(mean + 3 * math.sqrt(mean)))


def _host_bytes(shard: Cost, device: str) -> int:
    if device == "cuda":
        # the host lets go of the codes once the GPU has them, and holds them while it reads
        held = LOADED_VERSIONS * shard.ordinals + shard.index
    else:
        # without an index of their own the vectors are the index: every search reads them all
        searched = shard.resident if shard.index else shard.ordinals + shard.vectors
        held = LOADED_VERSIONS * searched
    return PROCESS_BYTES + held + shard.search


def _fewest_shards(wish: Wish, needs: Callable[[int], tuple[Cost, int, int | None]]) -> int:
    """The fewest shards, doubled until one fits, of which none is smaller than it is worth."""
    n_shards = 1
    while n_shards < 256 and wish.n_passages // (2 * n_shards) >= 1_000:
        _, host, on_gpu = needs(n_shards)
        if not list(_faults(wish, n_shards, host, on_gpu)):
            return n_shards
        n_shards *= 2
    return n_shards


def _faults(wish: Wish, n_shards: int, host: int, on_gpu: int | None) -> Iterator[str]:
    for need, have, what, flag in (
        (host, wish.memory_bytes, "memory", "--memory"),
        (on_gpu, wish.gpu_memory_bytes, "GPU memory", "--gpu-memory"),
    ):
        if need is not None and have is not None and need > have:
            yield (
                f"one of {n_shards} shards needs {need / 1e9:,.1f} GB of {what} while it reloads, "
                f"{flag} is {have / 1e9:,.1f} GB; take more --shards or smaller codes"
            )


def _notes(wish: Wish, n_shards: int, shard: Cost, host: int) -> Iterator[str]:
    if wish.memory_bytes is None or host > wish.memory_bytes:
        return
    vectors = shard.vectors if shard.index else 0
    if host + vectors > wish.memory_bytes:
        yield (
            f"a shard's vectors ({vectors / 1e9:,.1f} GB) don't stay in memory beside it: "
            "rescoring reads them from the disk"
        )
    if n_shards * (host + vectors) > wish.memory_bytes and n_shards > 1:
        together = n_shards * (host + vectors) / 1e9
        yield f"all {n_shards} shards need {together:,.1f} GB: spread them over machines"


def _replicas(wish: Wish, host: int, on_gpu: int | None) -> int | None:
    """Shard processes of this size that one machine (and one GPU) of the given size holds."""
    fits = [
        have // need
        for need, have in ((host, wish.memory_bytes), (on_gpu, wish.gpu_memory_bytes))
        if need is not None and have is not None
    ]
    return min(fits, default=None)


def _training_s(recipe: Recipe, n_sample: int) -> float:
    """Seconds on two cores, roughly: from rates seen at 384 dimensions."""
    n_pieces = min(n_sample, 256 * 256)
    lists = 10 * 2 * n_sample * recipe.n_lists * recipe.code_dim / _LISTS_FLOPS
    if not recipe.code_bits:
        return lists
    codes = 25.0 * 2 * n_pieces * 2.0**recipe.code_bits * recipe.code_dim
    if recipe.transform == "OPQ":
        codes *= 2 + 50 * 4 / 25
    return lists + codes / _CODES_FLOPS[recipe.code_bits]
