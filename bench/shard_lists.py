"""How many lists a shard should have: as many as its own size asks for, or as the corpus's.

Rule: times are compared at equal recall, and the four shards' are summed, for that is what four
shards cost whoever runs them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.recipe_table import RECALL, K, cheapest_at
from bench.stored import built, held_out, opened, spread
from bench.timing import Search, medians_s
from deploy.calibration.measure import measure
from router.candidates import shard_candidates
from shard_server.building.recipe import default_n_lists
from shard_server.index import ShardIndex
from shard_server.limits import SearchParameters
from shoal.vectors import Matrix

N_SHARDS = 4
BATCH = 64
HEADER = (
    "| shards | lists | n_probe x candidates | recall@10 | summed ms for 64 queries "
    "| times one index |\n|--:|--:|--:|--:|--:|--:|"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """An index cut so, at the cheapest setting that reaches RECALL."""

    n_shards: int
    n_lists: int
    n_probe: int
    candidates: int
    recall: float
    batch_s: float

    def line(self, whole_s: float) -> str:
        """A row of the table, beside the single index's time."""
        return (
            f"| {self.n_shards} | {self.n_lists} | {self.n_probe} x {self.candidates} "
            f"| {self.recall:.3f} | {self.batch_s * 1e3:.2f} | {self.batch_s / whole_s:.2f} |"
        )


def measure_lists(
    vectors: Path,
    n_rows: int,
    code: str,
    questions: Matrix,
    *,
    folder: Path,
    n_queries: int,
    seconds: float,
) -> tuple[Row, ...]:
    """The single index; four shards with lists by their size; four with the corpus's lists.

    Args:
        vectors: the corpus, a .npy of `n_rows` float32 vectors.
        n_rows: its passages.
        code: the recipe behind the lists: "PQ96x4fs".
        questions: float32 (n, dim).
        folder: where built indexes are kept.
        n_queries: questions that recall is the mean of.
        seconds: how long the timing takes.
    """
    by_corpus = default_n_lists(n_passages=n_rows, n_shards=1)
    by_shard = default_n_lists(n_passages=n_rows, n_shards=N_SHARDS)
    cuts = ((1, by_corpus), (N_SHARDS, by_shard), (N_SHARDS, by_corpus))
    asked = held_out(spread(questions, n_queries))
    found, searches = [], []
    for n_shards, n_lists in cuts:
        shards = opened(built(vectors, f"IVF{n_lists},{code}", n_shards=n_shards, folder=folder))
        point = cheapest_at(measure(shards, asked, (K,)), RECALL)
        if point is None:
            raise SystemExit(
                f"{n_shards} shards of {n_lists} lists never reach a recall of {RECALL}"
            )
        found.append((n_shards, n_lists, point))
        searches.append(_one_after_the_other(shards, point.n_probe, point.candidates))
    times = medians_s(searches, questions, batch=BATCH, seconds=seconds)
    return tuple(
        Row(
            n_shards=n_shards,
            n_lists=n_lists,
            n_probe=point.n_probe,
            candidates=point.candidates,
            recall=point.recall,
            batch_s=batch_s,
        )
        for (n_shards, n_lists, point), batch_s in zip(found, times, strict=True)
    )


def _one_after_the_other(shards: Sequence[ShardIndex], n_probe: int, candidates: int) -> Search:
    """What the router would ask of each shard, without the router."""
    n_live = [shard.n_live for shard in shards[0].manifest.shards]
    asks = [
        SearchParameters(
            k=K, n_probe=n_probe, candidates=shard_candidates(candidates, here, sum(n_live))
        )
        for here in n_live
    ]

    def search(queries: Matrix) -> object:
        return [shard.search(queries, ask) for shard, ask in zip(shards, asks, strict=True)]

    return search
