"""What a small cluster does under more load than it can carry: `make bench-overload`.

A closed loop finds the peak; then an open loop, which sends on schedule whatever the answers do,
offers one, two and three times as much. Goodput is what was answered within the callers' deadline.
The generator runs on the same cores, and each refused call costs it as much as the router: on two
cores part of what is lost at three times the load is the generator's, which the table tells by how
late it sent.
"""

import argparse
import subprocess
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench.cluster import SHOAL, served
from shoal.bench.load import run_load
from shoal.bench.plan import LoadPlan
from shoal.bench.report import LoadReport
from shoal.requests import SearchOptions

DIM = 64
N_PASSAGES = 20_000
RECIPE = "IVF32,PQ8"
TIMEOUT_S = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One load, as a multiple of the peak."""

    times: float
    load: LoadReport

    def line(self, peak: float) -> str:
        """A row of the table."""
        load = self.load
        n_refused = load.errors.get("RESOURCE_EXHAUSTED", 0)
        n_other = sum(load.errors.values()) - n_refused
        return (
            f"| {self.times:g} | {(load.rate or 0) * load.batch:,.0f} | {load.queries_per_s:,.0f} "
            f"| {load.queries_per_s / peak:.2f} | {load.ok_ms.p50:,.0f} | {load.ok_ms.p99:,.0f} "
            f"| {n_refused:,} | {load.error_ms.p50:,.1f} | {n_other:,} | {load.late_ms.p99:,.0f} |"
        )


def main() -> None:
    """Builds, serves, loads, prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=10.0, help="length of each load run")
    parser.add_argument("--batch", type=int, default=16, help="vectors a call")
    parser.add_argument("--shards", type=int, default=4)
    parser.add_argument("--clients", type=int, default=16, help="of the closed loop")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        index_dir, queries = _build(Path(folder), arguments.shards)
        with served(index_dir) as target:
            peak, steps = _measure(target, queries, arguments)
    print(
        f"\n{N_PASSAGES:,} x {DIM}, {RECIPE}, {arguments.shards} shards, {arguments.batch} vectors "
        f"a call, deadline {TIMEOUT_S:g} s; peak {peak:,.0f} queries/s, {arguments.clients} clients"
    )
    print(
        "| load | offered q/s | goodput q/s | of the peak | p50 ms | p99 ms | refused calls "
        "| failed p50 ms | other errors | sent late p99 ms |\n" + "|--:" * 10 + "|"
    )
    for step in steps:
        print(step.line(peak))


def _measure(
    target: str, queries: Path, arguments: argparse.Namespace
) -> tuple[float, Iterable[Step]]:
    def load(*, rate: float | None = None, clients: int | None = None) -> LoadReport:
        return run_load(LoadPlan(
            target=target, rate=rate, clients=clients, batch=arguments.batch, timeout_s=TIMEOUT_S,
            duration_s=arguments.seconds, vectors_file=str(queries),
            options=SearchOptions(k=10, fields=()),
        ))  # fmt: skip

    peak = load(clients=arguments.clients)
    if peak.errors:
        raise SystemExit(f"the peak had errors, so its figure means nothing: {peak.errors}")
    steps = [
        Step(times=times, load=load(rate=times * peak.calls_per_s))
        for times in (1.0, 2.0, 3.0, 1.0)
    ]
    return peak.queries_per_s, steps


def _build(folder: Path, n_shards: int) -> tuple[Path, Path]:
    """An index of clustered vectors and a file of queries near them."""
    rng = np.random.default_rng(20261123)
    centers = rng.standard_normal((100, DIM)).astype(np.float32)
    passages = centers[rng.integers(0, 100, N_PASSAGES)]
    passages += 0.5 * rng.standard_normal(passages.shape, dtype=np.float32)
    queries = folder / "queries.npy"
    np.save(queries, passages[rng.integers(0, N_PASSAGES, 4_096)])
    vectors = folder / "passages.npy"
    np.save(vectors, passages)
    index_dir = folder / "overload"
    subprocess.run(
        [
            SHOAL, "index", "build", "--vectors", str(vectors), "--index", str(index_dir),
            "--shards", str(n_shards), "--recipe", RECIPE,
        ],
        check=True,
        stdout=subprocess.DEVNULL,
    )  # fmt: skip
    return index_dir, queries


if __name__ == "__main__":
    main()
