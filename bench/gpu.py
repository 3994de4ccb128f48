"""One index searched on the CPU and on a GPU in the same run: the second half of `make gpu-check`.

1 million clustered synthetic vectors of 768 dimensions as IVF4096,PQ96, built by the real builder
and kept; queries a second at recall@10 of 0.95, through the shard's own engine. For each device the
candidates alone, rescored on the host (what serves), and, where torch runs on the device, rescored
there: faiss has no rescoring on a GPU, so torch shows what it could gain. `--device cpu` with small
sizes runs all of it on a machine without a GPU.
"""

import argparse
import importlib.util
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench.bandwidth import Bandwidth, bandwidth_of, scanned_gb_s
from bench.corpora import WORK, manifest_of
from bench.recipe_table import RECALL, K, cheapest_at
from bench.stored import built, held_out, spread
from bench.synthetic import clustered_queries, write_clustered
from bench.timing import Search, medians_s
from deploy.calibration.choose import Point
from deploy.calibration.measure import measure
from shard_server.building.recipe import Recipe
from shard_server.building.vectors import read_stored
from shard_server.devices import choose_device, count_gpus, open_backend
from shard_server.index import ShardIndex
from shard_server.limits import MAX_QUERIES, SearchParameters
from shoal.formats.manifest import Manifest
from shoal.vectors import Matrix

BATCHES = (1, 64, MAX_QUERIES)
TEMP_BYTES = 1 << 30
HEADER = (
    "| device | rescored | n_probe x candidates | recall@10 | ms for 1 | q/s by 64 | q/s by 1,024 "
    "| codes scanned, GB/s | of the bandwidth |\n|---|---|--:|--:|--:|--:|--:|--:|--:|"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One way to search at the setting that reaches RECALL; `seconds` are a call's, by BATCHES."""

    device: str
    rescored: str
    point: Point
    seconds: tuple[float, ...]
    scanned: float
    bandwidth: Bandwidth

    def line(self) -> str:
        """A row of the table."""
        one_s, *rest = self.seconds
        rates = [f"{n / s:,.0f}" for n, s in zip(BATCHES[1:], rest, strict=True)]
        share = f"{self.scanned / self.bandwidth.gb_s:.1%}" if self.bandwidth.gb_s else "-"
        recall = "-" if self.rescored == "no" else f"{self.point.recall:.3f}"
        cells = [
            self.device, self.rescored, f"{self.point.n_probe} x {self.point.candidates}", recall,
            f"{one_s * 1e3:.2f}", *rates, f"{self.scanned:,.1f}", share,
        ]  # fmt: skip
        return "| " + " | ".join(cells) + " |"


def main() -> None:
    """Builds where no run has, measures every device, prints one table."""
    arguments = _arguments()
    if arguments.device != "cpu" and not count_gpus():
        print("no GPU that faiss can use; `--device cpu` runs the rest of this benchmark")
        return
    vectors = arguments.folder / f"clustered-{arguments.rows}x{arguments.dim}.npy"
    write_clustered(vectors, n_rows=arguments.rows, dim=arguments.dim)
    queries = clustered_queries(n_queries=4 * MAX_QUERIES, n_rows=arguments.rows, dim=arguments.dim)
    index_dir = built(vectors, arguments.recipe, n_shards=1, folder=arguments.folder)
    manifest = manifest_of(index_dir)
    devices = ["cpu"] if arguments.device == "cpu" else ["cpu", arguments.device]
    lines, notes = [], []
    for device in devices:
        for row in _measure(index_dir, manifest, device, queries, arguments):
            lines.append(row.line())
            print(row.line(), flush=True)
            notes.append(f"{row.device}: {row.bandwidth.gb_s:,.0f} GB/s ({row.bandwidth.how})")
    title = f"{arguments.rows:,} vectors of {arguments.dim} dimensions, {arguments.recipe}"
    print("\n".join(["", title, "", HEADER, *lines, "", *dict.fromkeys(notes)]))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda:0", help="beside the CPU; cpu for the CPU alone")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=768)
    parser.add_argument("--recipe", default="IVF4096,PQ96")
    parser.add_argument("--queries", type=int, default=500, help="queries that recall is over")
    parser.add_argument("--seconds", type=float, default=5.0, help="length of each timing")
    parser.add_argument("--folder", type=Path, default=WORK / "gpu", help="built indexes")
    return parser.parse_args()


def _measure(
    index_dir: Path,
    manifest: Manifest,
    device: str,
    queries: Matrix,
    arguments: argparse.Namespace,
) -> Iterator[Row]:
    chosen = choose_device(device, n_gpus=count_gpus(), devices=manifest.devices)
    backend = open_backend(chosen, temp_bytes=TEMP_BYTES)
    index = ShardIndex.place(manifest, 0, ShardIndex.read(index_dir, manifest, 0), backend)
    point = cheapest_at(
        measure((index,), held_out(spread(queries, arguments.queries)), (K,)), RECALL
    )
    if point is None:
        raise SystemExit(f"{manifest.recipe} never reaches a recall of {RECALL} on {device}")
    bandwidth = bandwidth_of(device)
    code_bytes = Recipe.parse(manifest.recipe, manifest.dim).code_bytes
    for rescored, search in _ways(index, index_dir, manifest, device, point):
        seconds = tuple(
            medians_s([search], queries, batch=batch, seconds=arguments.seconds)[0]
            for batch in BATCHES
        )
        rate = max(batch / s for batch, s in zip(BATCHES, seconds, strict=True))
        scanned = scanned_gb_s(
            n_probe=point.n_probe,
            n_lists=manifest.n_lists,
            n_rows=manifest.n_rows,
            code_bytes=code_bytes,
            queries_per_s=rate,
        )
        yield Row(
            device=device,
            rescored=rescored,
            point=point,
            seconds=seconds,
            scanned=scanned,
            bandwidth=bandwidth,
        )
    index.close()


def _ways(
    index: ShardIndex, index_dir: Path, manifest: Manifest, device: str, point: Point
) -> Iterator[tuple[str, Search]]:
    """Candidates alone, rescored on the host, rescored on the device."""
    alone = SearchParameters(k=min(point.candidates, 1_000), n_probe=point.n_probe)
    served = SearchParameters(k=K, n_probe=point.n_probe, candidates=point.candidates)
    yield "no", lambda queries: index.search(queries, alone)
    yield "on the host", lambda queries: index.search(queries, served)
    if importlib.util.find_spec("torch") is not None:
        import torch  # noqa: PLC0415 -- a machine that only searches has no torch

        if device == "cpu" or torch.cuda.is_available():
            rescore = rescoring_with(torch, _stored_vectors(index_dir, manifest), device)
            yield (
                "by torch",
                lambda queries: rescore(
                    queries, index.search(queries, alone).rows.astype(np.int64)
                ),
            )


def rescoring_with(
    torch: Any, vectors: Matrix, device: str
) -> Callable[[Matrix, np.ndarray[Any, np.dtype[np.int64]]], tuple[Any, Any]]:
    """Rescoring on a device that holds all vectors: the best K scores and rows, as numpy.

    Args:
        torch: the module.
        vectors: float16 (n, dim).
        device: "cpu" or "cuda:N".
    """
    held = torch.from_numpy(np.ascontiguousarray(vectors)).to(device)

    def rescore(queries: Matrix, rows: Any) -> tuple[Any, Any]:
        """float32 (n, dim) and int64 (n, candidates) to (n, K) twice."""
        candidates = torch.from_numpy(rows).to(device)
        asked = torch.from_numpy(queries).to(device, held.dtype)
        scores = torch.bmm(held[candidates], asked[:, :, None])[:, :, 0].float()
        best = torch.topk(scores, min(K, rows.shape[1]), dim=1)
        found = torch.gather(candidates, 1, best.indices)
        return best.values.cpu().numpy(), found.cpu().numpy()

    return rescore


def _stored_vectors(index_dir: Path, manifest: Manifest) -> Matrix:
    segments: Sequence[Any] = manifest.shards[0].segments
    parts = [read_stored(index_dir / s.files.vectors.path, manifest.dim) for s in segments]
    return np.concatenate(parts)


if __name__ == "__main__":
    main()
