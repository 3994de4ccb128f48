"""How an index is compressed: what a recipe's name means, and which one fits a corpus. Pure.

Rule: one table says what is supported; anything else is refused with that table. Must not know
faiss, whose factory reads the same names.
"""

import math
import re
from dataclasses import dataclass
from typing import Literal

from shard_server.limits import GPU_CODE_SIZES, MAX_N_PROBE
from shoal.errors import ConfigError
from shoal.formats.manifest import Device

Target = Literal["cpu", "gpu"]

FLAT_BELOW = 10_000
"""Passages under which brute force is fast enough, and training has too little to go by."""

MIN_LISTS, MAX_LISTS = 16, 65_536
POINTS_A_LIST = 39
"""Training vectors a list that faiss's k-means wants at least."""

SCANNED_BY_DEFAULT = 131_072
"""Codes that a search reads at least, over all shards, where they are PQ's: some 0.6 ms of a core
for fast-scan of 384 dimensions. Below it a list left out costs points and saves next to nothing."""

SUPPORTED = (
    "Flat, SQ8, PQ<m>, PQ<m>x4fs, IVF<n>,Flat, IVF<n>,SQ8, IVF<n>,PQ<m> (8 bits) and "
    "IVF<n>,PQ<m>x4fs; in front of all but Flat, PCA<d>; in front of PQ<m>, OPQ<m> or OPQ<m>_<d>"
)
ON_GPU = "IVF<n> with Flat, SQ8 or 8-bit PQ with a code size of " + ", ".join(
    map(str, GPU_CODE_SIZES)
)
_PATTERN = re.compile(
    r"(?:(PCA|OPQ)(\d{1,5})(?:_(\d{1,5}))?,)?(?:IVF(\d{1,6}),)?(Flat|SQ8|PQ)(?:(\d{1,4})(x4fs)?)?"
)


def refuse_unknown(text: str) -> None:
    """ConfigError for what is no recipe's name at any dimension; `Recipe.parse` knows the rest."""
    match = _PATTERN.fullmatch(text)
    is_odd = match is None or (match[5] == "PQ") != bool(match[6])
    if is_odd or (match is not None and match[1] == "PCA" and match[3]):
        raise ConfigError(f"recipe {text!r} is not supported; supported are {SUPPORTED}")


Transform = Literal["", "PCA", "OPQ"]
Codec = Literal["Flat", "SQ8", "PQ"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """A supported recipe. `text` is faiss's factory string; `n_lists` is 0 without lists.

    `transform` stands in front and makes vectors of `code_dim`, the dimension that is coded;
    `n_codes` and `code_bits` are the product quantizer's, 0 without one.
    """

    text: str
    transform: Transform
    code_dim: int
    n_lists: int
    codec: Codec
    n_codes: int
    code_bits: int

    @classmethod
    def parse(cls, text: str, dim: int) -> "Recipe":
        """Read a recipe's name for vectors of `dim`; ConfigError says what is allowed."""
        refuse_unknown(text)
        match = _PATTERN.fullmatch(text)
        assert match is not None
        is_opq = match[1] == "OPQ"
        recipe = cls(
            text=text,
            transform=match[1] or "",  # type: ignore[arg-type]  # one of the pattern's words
            code_dim=int((match[3] if is_opq else match[2]) or dim),
            n_lists=int(match[4] or 0),
            codec=match[5],  # type: ignore[arg-type]  # one of the pattern's words
            n_codes=int(match[6] or 0),
            code_bits=(4 if match[7] else 8) if match[6] else 0,
        )
        fault = recipe._fault(dim, has_lists=bool(match[4]), n_rotated=int(match[2] or 0))
        if fault:
            raise ConfigError(f"recipe {text!r}: {fault}")
        return recipe

    def _fault(self, dim: int, *, has_lists: bool, n_rotated: int) -> str:
        """What is wrong with it and what to change; empty for a sound recipe."""
        if has_lists and not 1 <= self.n_lists <= MAX_LISTS:
            return f"lists must be 1 to {MAX_LISTS}"
        if self.transform:
            fault = self._transform_fault(dim, n_rotated)
            if fault:
                return fault
        if self.codec == "PQ" and (self.n_codes < 1 or self.code_dim % self.n_codes):
            would_do = _largest_divisor(self.code_dim, max(1, self.code_dim // 4))
            return f"PQ needs a divisor of the dimension {self.code_dim}; {would_do} would do"
        return ""

    def _transform_fault(self, dim: int, n_rotated: int) -> str:
        if self.codec == "Flat" and not self.n_lists:
            return "Flat searches the stored vectors as they are; leave the transform out"
        if not 1 <= self.code_dim <= dim:
            return f"{self.transform} must leave 1 to {dim} dimensions, the vectors' own"
        if self.transform == "OPQ" and self.codec != "PQ":
            return f"OPQ is trained for PQ alone; take PCA{self.code_dim} or leave it out"
        if self.transform == "OPQ" and n_rotated != self.n_codes:
            return (
                f"OPQ is trained for {n_rotated} codes, PQ has {self.n_codes}; make them the same"
            )
        return ""

    @property
    def code_bytes(self) -> int:
        """Bytes of a vector's code as faiss counts them; 0 for Flat, which has none of its own."""
        if self.codec == "PQ":
            return -(-self.n_codes * self.code_bits // 8)
        if self.codec == "SQ8":
            return self.code_dim
        return 4 * self.code_dim if self.n_lists else 0

    @property
    def is_trained(self) -> bool:
        """Whether there is anything to train; Flat has nothing."""
        return self.text != "Flat"

    @property
    def min_training_vectors(self) -> int:
        """Vectors below which faiss can't train it."""
        rotated = self.code_dim if self.transform else 0
        return max(self.n_lists, 2**self.code_bits if self.code_bits else 0, rotated)

    @property
    def devices(self) -> tuple[Device, ...]:
        """Where an index of this recipe can serve."""
        if not self.is_trained:
            return ("cpu", "cuda")
        fits = self.codec != "PQ" or (self.code_bits == 8 and self.n_codes in GPU_CODE_SIZES)
        return ("cpu", "cuda") if self.n_lists and fits else ("cpu",)

    def default_n_probe(self, n_passages: int) -> int:
        """Lists to search unless a request says otherwise; 0 without lists.

        A quarter, and of PQ's codes as many as hold `SCANNED_BY_DEFAULT` of the passages: questions
        lie nearer to short passages than to long ones, so that what is unlike the rest of a corpus
        lies in lists that come late.
        """
        if not self.n_lists:
            return 0
        least = min(self.n_lists, MIN_LISTS)
        if self.codec == "PQ":
            share = SCANNED_BY_DEFAULT / max(n_passages, SCANNED_BY_DEFAULT)
            least = max(least, math.ceil(share * self.n_lists))
        return min(max(self.n_lists // 4, least), MAX_N_PROBE)


def choose_recipe(
    text: str | None, *, n_passages: int, n_shards: int, dim: int, target: Target
) -> Recipe:
    """The recipe asked for, or the default one; ConfigError where it can't be built or served."""
    if text is None:
        text = default_recipe(n_passages=n_passages, n_shards=n_shards, dim=dim, target=target)
    recipe = Recipe.parse(text, dim)
    if target == "gpu" and "cuda" not in recipe.devices:
        raise ConfigError(
            f"recipe {text!r} does not run on a GPU: take {ON_GPU}, or build for the CPU"
        )
    if n_passages < recipe.min_training_vectors:
        raise ConfigError(
            f"recipe {text!r} needs at least {recipe.min_training_vectors} passages to train on, "
            f"the corpus has {n_passages}; take fewer lists, 4-bit PQ, SQ8 or Flat"
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
    wanted: int = 1 << max(0, round(math.log2(4 * math.sqrt(n_passages / n_shards))))
    trainable: int = 1 << int(math.log2(max(1, n_passages // POINTS_A_LIST)))
    return max(1, min(max(wanted, MIN_LISTS), MAX_LISTS, trainable))


def n_training_vectors(recipe: Recipe, *, n_passages: int, at_most: int) -> int:
    """How many vectors to train on: 256 a list up to `at_most`, but never under 39 a list.

    Quantizers and transforms want 65,536, as many as faiss's k-means takes for 256 centroids.
    """
    if not recipe.is_trained:
        return 0
    wanted = min(max(256 * recipe.n_lists, 65_536), at_most)
    return min(n_passages, max(wanted, POINTS_A_LIST * recipe.n_lists))


def _largest_divisor(number: int, at_most: int) -> int:
    return max(size for size in range(1, at_most + 1) if number % size == 0)
