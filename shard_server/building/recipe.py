"""How an index is compressed: what a recipe's name means, and which one fits a corpus. Pure.

Rule: one table says what is supported; anything else is refused with that table. Must not know
faiss, whose factory reads the same names.
"""

import math
import re
from dataclasses import dataclass
from typing import Literal

from shoal.errors import ConfigError
from shoal.formats.manifest import Device

Target = Literal["cpu", "gpu"]

FLAT_BELOW = 10_000
"""Passages under which brute force is fast enough, and training has too little to go by."""

MIN_LISTS, MAX_LISTS = 16, 65_536
MAX_N_PROBE = 2_048
POINTS_A_LIST = 39
"""Training vectors a list that faiss's k-means wants at least."""

GPU_CODE_SIZES = (1, 2, 3, 4, 8, 12, 16, 20, 24, 28, 32, 40, 48, 56, 64, 96)
"""Bytes a vector that faiss's GPU IVF-PQ takes."""

SUPPORTED = "Flat, IVF<n>,Flat, IVF<n>,SQ8, IVF<n>,PQ<m> (8 bits) and IVF<n>,PQ<m>x4fs (CPU only)"
_PATTERN = re.compile(r"Flat|IVF(\d{1,6}),(Flat|SQ8|PQ(\d{1,4})(x4fs)?)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """A supported recipe. `text` is faiss's factory string; `n_lists` is 0 for Flat.

    `n_codes` and `code_bits` are the product quantizer's, 0 without one.
    """

    text: str
    n_lists: int
    n_codes: int
    code_bits: int

    @classmethod
    def parse(cls, text: str, dim: int) -> "Recipe":
        """Read a recipe's name for vectors of `dim`; ConfigError says what is allowed."""
        match = _PATTERN.fullmatch(text)
        if match is None:
            raise ConfigError(f"recipe {text!r} is not supported; supported are {SUPPORTED}")
        n_lists, n_codes = int(match[1] or 0), int(match[3] or 0)
        code_bits = (4 if match[4] else 8) if match[3] else 0
        if match[1] and not 1 <= n_lists <= MAX_LISTS:
            raise ConfigError(f"recipe {text!r}: lists must be 1 to {MAX_LISTS}")
        if match[3] and (n_codes < 1 or dim % n_codes):
            raise ConfigError(
                f"recipe {text!r}: PQ needs a divisor of the dimension {dim}; "
                f"{_largest_divisor(dim, max(1, dim // 4))} would do"
            )
        return cls(text=text, n_lists=n_lists, n_codes=n_codes, code_bits=code_bits)

    @property
    def min_training_vectors(self) -> int:
        """Vectors below which faiss can't train it."""
        return max(self.n_lists, 2**self.code_bits if self.code_bits else 0)

    @property
    def devices(self) -> tuple[Device, ...]:
        """Where an index of this recipe can serve."""
        if self.code_bits == 4 or (self.code_bits == 8 and self.n_codes not in GPU_CODE_SIZES):
            return ("cpu",)
        return ("cpu", "cuda")

    @property
    def default_n_probe(self) -> int:
        """Lists to search unless a request says otherwise; 0 without lists."""
        if not self.n_lists:
            return 0
        return min(max(self.n_lists // 4, min(self.n_lists, MIN_LISTS)), MAX_N_PROBE)


def choose_recipe(
    text: str | None, *, n_passages: int, n_shards: int, dim: int, target: Target
) -> Recipe:
    """The recipe asked for, or the default one; ConfigError where it can't be built or served."""
    if text is None:
        text = default_recipe(n_passages=n_passages, n_shards=n_shards, dim=dim, target=target)
    recipe = Recipe.parse(text, dim)
    if target == "gpu" and "cuda" not in recipe.devices:
        raise ConfigError(
            f"recipe {text!r} does not run on a GPU: take 8-bit PQ with a code size of "
            f"{', '.join(map(str, GPU_CODE_SIZES))}, or build for the CPU"
        )
    if n_passages < recipe.min_training_vectors:
        raise ConfigError(
            f"recipe {text!r} needs at least {recipe.min_training_vectors} passages to train on, "
            f"the corpus has {n_passages}; take fewer lists, 4-bit PQ or Flat"
        )
    return recipe


def default_recipe(*, n_passages: int, n_shards: int, dim: int, target: Target) -> str:
    """Flat for small corpora; else IVF with fast-scan PQ for CPUs, 8-bit PQ for GPUs."""
    if n_passages < FLAT_BELOW:
        return "Flat"
    n_lists = default_n_lists(n_passages=n_passages, n_shards=n_shards)
    quarter = max(1, dim // 4)
    if target == "cpu":
        return f"IVF{n_lists},PQ{_largest_divisor(dim, quarter)}x4fs"
    legal = max(size for size in GPU_CODE_SIZES if dim % size == 0 and size <= quarter)
    return f"IVF{n_lists},PQ{legal}"


def default_n_lists(*, n_passages: int, n_shards: int) -> int:
    """Power of two nearest to 4 x sqrt(passages a shard), within what the corpus can train."""
    wanted: int = 1 << round(math.log2(4 * math.sqrt(n_passages / n_shards)))
    trainable: int = 1 << int(math.log2(max(1, n_passages // POINTS_A_LIST)))
    return max(1, min(max(wanted, MIN_LISTS), MAX_LISTS, trainable))


def n_training_vectors(recipe: Recipe, *, n_passages: int, at_most: int) -> int:
    """How many vectors to train on: 256 a list up to `at_most`, but never under 39 a list."""
    if not recipe.n_lists:
        return 0
    wanted = min(max(256 * recipe.n_lists, 65_536), at_most)
    return min(n_passages, max(wanted, POINTS_A_LIST * recipe.n_lists))


def _largest_divisor(number: int, at_most: int) -> int:
    return max(size for size in range(1, at_most + 1) if number % size == 0)
