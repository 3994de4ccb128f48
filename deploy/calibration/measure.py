"""Recall and time over a grid of n_probe and candidates, on all shards of an index in process.

Rule: each search is the cluster's own: the router's shares of candidates, the shard's engine, the
router's merge. Rescored and exact scores are equal bit for bit, so a hit counts where its score
reaches the k-th exact one: whichever of several equal passages was found.
"""

import time
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from deploy.calibration.choose import Cell
from deploy.calibration.questions import HeldOut
from router import merge
from router.candidates import shard_candidates
from router.recall import Recalls, recalls_at
from shard_server.building.progress import Progress, silent
from shard_server.devices import CpuBackend
from shard_server.hits import NO_SCORE
from shard_server.index import ShardIndex
from shard_server.limits import MAX_N_PROBE, SearchParameters
from shoal.errors import ConfigError
from shoal.formats.manifest import Manifest
from shoal.vectors import Matrix

CANDIDATES = (100, 200, 500, 1000, 2000)
_BATCH = 64
"""Queries a search; what a busy router sends."""
_ENOUGH = 0.9995
"""Mean recall above which more lists are not tried."""
_LEAST_GAIN = 0.0005
"""Mean recall that more candidates must gain, or still more of them are not tried."""


def open_shards(index_dir: Path, manifest: Manifest) -> tuple[ShardIndex, ...]:
    """Every shard of the index, checked and on the CPU.

    Raises:
        ConfigError: the index does not serve on a CPU.
        IndexFormatError: a file that does not verify.
    """
    if "cpu" not in manifest.devices:
        raise ConfigError(f"the index serves on {manifest.devices} alone; calibrating needs a CPU")
    opened = []
    for shard in range(len(manifest.shards)):
        segments = ShardIndex.read(index_dir, manifest, shard)
        opened.append(ShardIndex.place(manifest, shard, segments, CpuBackend()))
    return tuple(opened)


def n_probe_grid(n_lists: int) -> tuple[int, ...]:
    """1, 2, 4, 8, 12, 16, 24, … up to all lists, at most 2,048; (0,) without lists."""
    if not n_lists:
        return (0,)
    most = min(n_lists, MAX_N_PROBE)
    steps = {2**i for i in range(12)} | {3 * 2**i for i in range(2, 11)}
    return (*sorted(step for step in steps if step < most), most)


def measure(
    shards: Sequence[ShardIndex],
    queries: HeldOut,
    ks: Sequence[int],
    progress: Progress = silent,
) -> tuple[Cell, ...]:
    """Searches the grid; more lists, or more candidates, only as long as they find more.

    Args:
        shards: all shards of one version.
        queries: held out.
        ks: numbers of hits, ascending; each at most what there is to find.
        progress: told of "exact" queries and of "measure" settings.
    """
    manifest = shards[0].manifest
    own_extra = int(queries.leaves_out_own)
    depth = max(ks) + own_extra
    kth_scores = _exact(shards, queries, ks, depth, progress)
    grid = n_probe_grid(manifest.n_lists)
    widths = _candidate_grid(manifest.n_live, depth)
    n_settings = len(grid) * len(widths)
    cells: list[Cell] = []
    shards[0].warm_up()
    for n_probe in grid:
        for candidates in widths:
            # the own row takes one place among the candidates
            parameters = SearchParameters(
                k=depth, n_probe=n_probe, candidates=candidates + own_extra
            )
            scores, ms = _search(shards, queries, parameters)
            recalls = {k: recalls_at(scores, kth_scores[k], k) for k in ks}
            cells.append(Cell(n_probe=n_probe, candidates=candidates, ms=ms, recalls=recalls))
            progress("measure", len(cells), n_settings)
            if candidates != widths[0] and not _gains(cells[-1], cells[-2]):
                break
        if all(recall.mean() >= _ENOUGH for recall in cells[-1].recalls.values()):
            break
    progress("measure", n_settings, n_settings)
    return tuple(cells)


def _gains(cell: Cell, before: Cell) -> bool:
    return any(
        recall.mean() >= before.recalls[k].mean() + _LEAST_GAIN
        for k, recall in cell.recalls.items()
    )


def recall_at(
    shards: Sequence[ShardIndex], queries: HeldOut, *, k: int, n_probe: int, candidates: int
) -> Recalls:
    """Each query's recall at one setting, float64 (n_queries,)."""
    depth = k + int(queries.leaves_out_own)
    kth_scores = _exact(shards, queries, (k,), depth, silent)
    parameters = SearchParameters(k=depth, n_probe=n_probe, candidates=candidates)
    scores, _ = _search(shards, queries, parameters)
    return recalls_at(scores, kth_scores[k], k)


def _candidate_grid(n_live: int, depth: int) -> tuple[int, ...]:
    """Numbers of candidates: none beyond what there is, and at least one that holds `depth`."""
    useful = [width for width in CANDIDATES if width < n_live]
    beyond = [width for width in CANDIDATES if width >= max(n_live, depth)][:1]
    return (*useful, *beyond)


def _exact(
    shards: Sequence[ShardIndex],
    queries: HeldOut,
    ks: Sequence[int],
    depth: int,
    progress: Progress,
) -> dict[int, npt.NDArray[np.float32]]:
    """By k, each query's k-th best score, float32 (n_queries,)."""
    scores, _ = _search(shards, queries, SearchParameters(k=depth, exact=True), progress)
    return {k: scores[:, k - 1] for k in ks}


def _search(
    shards: Sequence[ShardIndex],
    queries: HeldOut,
    parameters: SearchParameters,
    progress: Progress = silent,
) -> tuple[npt.NDArray[np.float32], float]:
    """Scores of the merged hits without each query's own row, best first, filled up with -inf; and
    milliseconds a query, of the median batch: another process's moment on the cores is left out.
    """
    n_queries = len(queries.vectors)
    parts, ms = [], []
    for start in range(0, n_queries, _BATCH):
        batch = slice(start, start + _BATCH)
        begun_s = time.perf_counter()
        winners = search_batch(shards, queries.vectors[batch], parameters)
        ms.append((time.perf_counter() - begun_s) * 1e3 / len(winners.scores))
        parts.append(_without_own(winners, queries.own[batch], parameters.k))
        progress("exact", min(n_queries, start + _BATCH), n_queries)
    return np.concatenate(parts), float(np.median(ms))


def search_batch(
    shards: Sequence[ShardIndex],
    query_vectors: Matrix,
    parameters: SearchParameters,
    *,
    answering: Collection[int] | None = None,
) -> merge.Winners:
    """One search as the cluster does it: `parameters.candidates` are over all shards.

    Args:
        shards: all shards of one version.
        query_vectors: float32 (n_queries, dim).
        parameters: as a request's.
        answering: the shards that answer; None is all of them.
    """
    n_live = [shard.n_live for shard in shards[0].manifest.shards]
    parts = []
    for number, shard in enumerate(shards):
        if answering is not None and number not in answering:
            continue
        share = parameters.candidates and shard_candidates(
            parameters.candidates, n_live[number], sum(n_live)
        )
        hits = shard.search(
            query_vectors,
            SearchParameters(
                k=parameters.k,
                n_probe=parameters.n_probe,
                candidates=share,
                exact=parameters.exact,
            ),
        )
        parts.append(
            merge.ShardHits(
                ordinals=hits.ordinals, segments=hits.segments, rows=hits.rows, scores=hits.scores
            )
        )
    return merge.merge_top_k(parts, parameters.k)


def _without_own(
    winners: merge.Winners, own: npt.NDArray[np.int64], depth: int
) -> npt.NDArray[np.float32]:
    """Scores (n_queries, depth) with the own rows moved out, -inf where there is no hit."""
    scores = np.full((len(own), depth), NO_SCORE, dtype=np.float32)
    there = (winners.parts != merge.NO_HIT) & (winners.ordinals != own[:, None])
    scores[:, : there.shape[1]] = np.where(there, winners.scores, NO_SCORE)
    return -np.sort(-scores, axis=1)
