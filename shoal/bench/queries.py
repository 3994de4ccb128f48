"""What is asked: texts or vectors, from a file or made up, cut into calls. Knows no target.

Rule: queries that are made up are distinct and come from a seed, so that no cache has seen them
and the next run asks the same.
"""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from shoal.errors import CorpusError

N_TEXTS = 8_192
"""Made up or drawn, where no number is asked for: twice what an encoder's cache keeps by default,
so that whoever has been through them all and begins again finds none of them there."""
N_VECTORS = 2_048
"""The same of vectors, which nothing caches."""

Vectors: TypeAlias = npt.NDArray[np.floating[Any]]
Batch: TypeAlias = tuple[str, ...] | Vectors
"""The queries of one call: texts, or vectors of shape (n, dim)."""

_OPENINGS = ("how do I", "why does", "what happens when I", "when should I", "is it safe to",
             "where can I", "who was the first to", "what does it cost to")  # fmt: skip
_VERBS = ("copy", "sort", "close", "read", "compare", "grow", "repair", "measure", "cross",
          "translate", "store", "paint", "heat", "count", "build", "observe")  # fmt: skip
_KINDS = ("old", "large", "frozen", "empty", "nested", "wooden", "distant", "broken", "northern",
          "quiet", "shared", "hidden", "ancient", "steep", "fast", "round")  # fmt: skip
_THINGS = ("list", "river", "engine", "file", "bridge", "planet", "dictionary", "garden", "letter",
           "network", "mountain", "number", "ship", "treaty", "whale", "window")  # fmt: skip
_ENDINGS = ("by two keys", "in winter", "without a tool", "line by line", "before a storm",
            "on a small machine", "at night", "in ten minutes")  # fmt: skip
MAX_GENERATED = len(_OPENINGS) * len(_VERBS) * len(_KINDS) * len(_THINGS) * len(_ENDINGS)


def generated_texts(n: int, seed: int) -> tuple[str, ...]:
    """`n` distinct questions, at most `MAX_GENERATED`, drawn by the seed."""
    numbers = random.Random(seed).sample(range(MAX_GENERATED), min(n, MAX_GENERATED))
    return tuple(map(_question, numbers))


def generated_vectors(n: int, dim: int, seed: int) -> npt.NDArray[np.float32]:
    """`n` random directions: float32 (n, dim), each of length 1."""
    drawn = np.random.default_rng(seed).standard_normal((n, dim), dtype=np.float32)
    return np.asarray(drawn / np.linalg.norm(drawn, axis=1, keepdims=True), dtype=np.float32)


def read_vectors(path: Path) -> Vectors:
    """The (n, dim) array in a .npy file; CorpusError where there is none."""
    try:
        vectors = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as failure:
        raise CorpusError(f"{path}: can't be read as a .npy array: {failure}") from failure
    if vectors.ndim != 2 or not len(vectors):
        raise CorpusError(f"{path}: has shape {vectors.shape}; query vectors are (n, dim)")
    return np.asarray(vectors)


def batches_of(queries: Sequence[str] | Vectors, batch: int) -> list[Batch]:
    """The queries of each call, in turn; `batch` a call.

    Every query is in one call; a last part that doesn't fill a batch is left out where there is a
    full one, and fewer queries than a batch are repeated until they fill one.
    """
    n_calls = len(queries) // batch
    if not n_calls:
        rows = [i % len(queries) for i in range(batch)]
        return [queries[rows] if isinstance(queries, np.ndarray)
                else tuple(queries[row] for row in rows)]  # fmt: skip
    parts = (queries[i * batch : (i + 1) * batch] for i in range(n_calls))
    return [part if isinstance(part, np.ndarray) else tuple(part) for part in parts]


def _question(number: int) -> str:
    words = []
    for choices in (_OPENINGS, _VERBS, _KINDS, _THINGS, _ENDINGS):
        number, place = divmod(number, len(choices))
        words.append(choices[place])
    opening, verb, kind, thing, ending = words
    return f"{opening} {verb} the {kind} {thing} {ending}"
