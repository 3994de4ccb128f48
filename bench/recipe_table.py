"""What each recipe costs and finds, on one corpus: bytes, recall, and time at a recall of 0.95.

Rule: the shard's own engine is measured, over the index that the builder made; recall is against
exact search over the same float16 vectors, with questions that are not of the corpus.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench.corpora import manifest_of
from bench.stored import built, held_out, opened, spread
from bench.timing import medians_s
from deploy.calibration.choose import Cell, Point, points_of
from deploy.calibration.measure import measure
from shard_server.building.cost import cost_of
from shard_server.building.recipe import Recipe
from shard_server.limits import SearchParameters
from shoal.formats.manifest import Manifest
from shoal.vectors import Matrix

K = 10
RECALL = 0.95
DEFAULT_CANDIDATES = 100
RECIPES = (
    "Flat", "SQ8", "PQ96", "IVF512,Flat", "IVF512,SQ8", "IVF512,PQ48", "IVF512,PQ96",
    "IVF512,PQ48x4fs", "IVF512,PQ96x4fs", "OPQ96,IVF512,PQ96x4fs", "PCA192,IVF512,PQ96x4fs",
)  # fmt: skip
HEADER = (
    "| recipe | bytes a vector | MB in memory | recall@10 by default "
    "| for 0.95: n_probe x candidates | queries/s, batches of 64 | ms, one at a time |\n"
    "|---|--:|--:|--:|--:|--:|--:|"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """The cheapest setting that reaches RECALL, and its time for 64 queries and for one."""

    n_probe: int
    candidates: int
    recall: float
    batch_64_s: float
    batch_1_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A recipe; `setting` is None where no setting reaches RECALL."""

    recipe: str
    bytes_a_vector: float
    resident_bytes: int
    default_recall: float
    setting: Setting | None

    def line(self) -> str:
        """A row of the table."""
        cells = [
            f"`{self.recipe}`",
            f"{self.bytes_a_vector:,.0f}",
            f"{self.resident_bytes / 1e6:,.1f}",
            f"{self.default_recall:.3f}",
        ]
        found = self.setting
        if found is None:
            return "| " + " | ".join([*cells, "-", "-", "-"]) + " |"
        how = f"{found.n_probe or '-'} x {found.candidates}"
        if self.recipe == "Flat":
            how = "-"
        rate, ms = f"{64 / found.batch_64_s:,.0f}", f"{found.batch_1_s * 1e3:.2f}"
        return "| " + " | ".join([*cells, how, rate, ms]) + " |"


def measure_recipe(
    vectors: Path, recipe: str, questions: Matrix, *, folder: Path, n_queries: int, seconds: float
) -> Row:
    """Builds the recipe where no run has, searches the grid, and times the cheapest setting.

    Args:
        vectors: the corpus, a .npy of float32 (n, dim).
        recipe: its name.
        questions: float32 (n, dim).
        folder: where built indexes are kept.
        n_queries: questions that recall is the mean of.
        seconds: how long each timing takes.
    """
    index_dir = built(vectors, recipe, n_shards=1, folder=folder)
    manifest = manifest_of(index_dir)
    shards = opened(index_dir)
    cells = measure(shards, held_out(spread(questions, n_queries)), (K,))
    cheapest = cheapest_at(cells, RECALL)
    setting = None
    if cheapest is not None:
        parameters = SearchParameters(k=K, n_probe=cheapest.n_probe, candidates=cheapest.candidates)
        search = [lambda asked: shards[0].search(asked, parameters)]
        (batch_64_s,) = medians_s(search, questions, batch=64, seconds=seconds)
        (batch_1_s,) = medians_s(search, questions, batch=1, seconds=seconds)
        setting = Setting(
            n_probe=cheapest.n_probe,
            candidates=cheapest.candidates,
            recall=cheapest.recall,
            batch_64_s=batch_64_s,
            batch_1_s=batch_1_s,
        )
    return Row(
        recipe=recipe,
        bytes_a_vector=bytes_a_vector(manifest),
        resident_bytes=_resident_bytes(manifest),
        default_recall=_recall_near(cells, manifest.default_n_probe, DEFAULT_CANDIDATES),
        setting=setting,
    )


def cheapest_at(cells: Sequence[Cell], recall: float) -> Point | None:
    """The fastest setting of at least that mean recall; None where there is none. Pure.

    Times are calibration's, which counts no setting as slower than one that does more: a
    neighbour's load while one was measured must not choose another.
    """
    kinds = np.zeros(len(cells[0].recalls[K]), dtype=np.int64)
    enough = [point for point in points_of(cells, K, kinds) if point.recall >= recall]
    return min(enough, key=lambda point: (point.ms, point.n_probe, point.candidates), default=None)


def bytes_a_vector(manifest: Manifest) -> float:
    """What a search scans for each passage: its share of index.faiss, or of the vectors. Pure."""
    files = [segment.files for shard in manifest.shards for segment in shard.segments]
    n_bytes = sum((file.index or file.vectors).n_bytes for file in files)
    return n_bytes / manifest.n_rows


def _resident_bytes(manifest: Manifest) -> int:
    cost = cost_of(
        Recipe.parse(manifest.recipe, manifest.dim),
        n_rows=manifest.n_rows,
        dim=manifest.dim,
        metric=manifest.metric,
        passage_bytes=0,
    )
    return cost.resident


def _recall_near(cells: Sequence[Cell], n_probe: int, candidates: int) -> float:
    """Recall at the setting, or at the last one below it: the grid ends where all is found."""
    below = [c for c in cells if c.n_probe <= n_probe and c.candidates <= candidates]
    cell = max(below, key=lambda c: (c.n_probe, c.candidates))
    return float(cell.recalls[K].mean())
