"""What the simulated shards hold, and the exact answer to every question. Pure.

Scores are small integers, so that ties are the rule; every version has its own sizes and scores,
so that an answer of two versions can't pass for one of either.
"""

import functools
import random
from dataclasses import dataclass

N_VERSIONS = 4
N_QUESTIONS = 16

Hit = tuple[float, int]
"""Score and ordinal."""


@dataclass(frozen=True)
class Corpus:
    """Every version of one index; `seed` and `n_shards` say it all."""

    seed: int
    n_shards: int

    @functools.cached_property
    def n_live(self) -> dict[int, tuple[int, ...]]:
        """Passages by shard, by version; shards may be empty, and so may the index."""
        chance = random.Random(f"{self.seed} {self.n_shards}")
        return {
            version: tuple(
                chance.choice([0, 1, 2, 3, 5, 8]) if self.seed else 0 for _ in range(self.n_shards)
            )
            for version in range(1, N_VERSIONS + 1)
        }

    def shard_of(self, version: int, ordinal: int) -> int:
        """Where a passage lies."""
        for shard, n_live in enumerate(self.n_live[version]):
            if ordinal < n_live:
                return shard
            ordinal -= n_live
        raise ValueError(f"version {version} has no such passage")

    @functools.lru_cache(maxsize=4096)  # noqa: B019 -- corpora are few and live as long as the tests
    def ranked(self, version: int, shard: int, question: int) -> tuple[Hit, ...]:
        """One shard's passages, best first; ties by ordinal."""
        sizes = self.n_live[version]
        first = sum(sizes[:shard])
        hits = [
            (float((ordinal * 7 + question * 5 + version * 3 + ordinal // 4) % 9 - 4), ordinal)
            for ordinal in range(first, first + sizes[shard])
        ]
        return tuple(sorted(hits, key=lambda hit: (-hit[0], hit[1])))

    def answer(
        self, version: int, shards: set[int], question: int, *, k: int, offset: int = 0
    ) -> list[Hit]:
        """The one right answer of these shards."""
        hits = [hit for shard in shards for hit in self.ranked(version, shard, question)]
        return sorted(hits, key=lambda hit: (-hit[0], hit[1]))[offset : offset + k]

    def coverage(self, version: int, shards: set[int]) -> float:
        """The share of the version's passages that these shards hold; 1.0 of none."""
        sizes = self.n_live[version]
        return sum(sizes[shard] for shard in shards) / sum(sizes) if sum(sizes) else 1.0


@functools.cache
def corpus_of(seed: int, n_shards: int) -> Corpus:
    """One of a few: what they compute is kept."""
    return Corpus(seed, n_shards)


def passage_id(version: int, ordinal: int) -> str:
    """A passage's id names its version."""
    return f"v{version}p{ordinal}"
