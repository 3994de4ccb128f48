"""This checkout's cluster beside another checkout's, in one run: `make bench-against OTHER=PATH`.

Both serve the same index on the same machine at the same time, and loads go to one and then the
other, in pairs whose order is drawn: what disturbs the machine disturbs both alike. Three loads:
64 clients in a closed loop for the throughput, a constant rate at about half of it for the
latency, and one client alone.
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench.corpora import SHARED, WORK, build, encoded_corpus
from shoal.bench.load import run_load
from shoal.bench.plan import LoadPlan
from shoal.bench.report import LoadReport
from shoal.client import Client

_N_RESAMPLES = 2_000
_PROGRAM = "import sys; from deploy.cli.main import main; main()"


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """One load, and the figure taken from it."""

    name: str
    plan: Callable[[str], LoadPlan]
    figure: Callable[[LoadReport], float]
    wanted: str


@contextmanager
def served_by(checkout: Path, index_dir: Path) -> Iterator[str]:
    """`shoal up` with a checkout's own code, by this environment's Python; yields host:port."""
    name = f"against-{os.getpid()}-{checkout.resolve().name}"
    environment = {**os.environ, "PYTHONPATH": str(checkout.resolve())}

    def shoal(*arguments: str) -> str:
        return subprocess.run(
            [sys.executable, "-c", _PROGRAM, *arguments, "--name", name],
            check=True,
            capture_output=True,
            text=True,
            cwd=checkout,
            env=environment,
        ).stdout

    shoal("up", "--index", str(index_dir.resolve()), "--port", "0", "--detach")
    try:
        target = str(json.loads(shoal("status", "--json"))["target"])
        with Client(target) as client:
            client.wait_ready(timeout_s=60)
        yield target
    finally:
        shoal("down")


def measures(vectors_file: str, seconds: float, rate: float) -> Sequence[Measure]:
    """What is measured; `rate` is in queries a second."""

    def plan(target: str, *, clients: int | None = None, rate: float | None = None) -> LoadPlan:
        return LoadPlan(
            target=target,
            clients=clients,
            rate=rate,
            duration_s=seconds,
            warmup_s=1.0,
            vectors_file=vectors_file,
            connections=4 if clients != 1 else 1,
        )

    return (
        Measure(name="64 clients, q/s", plan=lambda t: plan(t, clients=64),
                figure=lambda r: r.queries_per_s, wanted=">= 0.95"),
        Measure(name=f"{rate:.0f} q/s, p50 ms", plan=lambda t: plan(t, rate=rate),
                figure=lambda r: r.latency_ms.p50, wanted=""),
        Measure(name=f"{rate:.0f} q/s, p99 ms", plan=lambda t: plan(t, rate=rate),
                figure=lambda r: r.latency_ms.p99, wanted="<= 1.05"),
        Measure(name="one client, p50 ms", plan=lambda t: plan(t, clients=1),
                figure=lambda r: r.latency_ms.p50, wanted=""),
    )  # fmt: skip


def compare(
    measure: Measure, ours: str, other: str, n_pairs: int, rng: random.Random
) -> list[tuple[float, float]]:
    """Pairs of figures, ours first, each measured right after the other."""
    pairs = []
    for _ in range(n_pairs):
        targets = [ours, other]
        if rng.random() < 0.5:
            targets.reverse()
        found = {}
        for target in targets:
            report = run_load(measure.plan(target))
            if report.errors:
                raise SystemExit(f"{measure.name}: errors, so it means nothing: {report.errors}")
            found[target] = measure.figure(report)
        pairs.append((found[ours], found[other]))
    return pairs


def interval(ratios: Sequence[float], seed: int = 0) -> tuple[float, float]:
    """The 95 % bootstrap interval of the median of ratios."""
    rng = np.random.default_rng(seed)
    drawn = rng.choice(np.asarray(ratios), size=(_N_RESAMPLES, len(ratios)))
    low, high = np.quantile(np.median(drawn, axis=1), [0.025, 0.975])
    return float(low), float(high)


def print_pairs(
    measured: Sequence[Measure], ours: str, other: str, n_pairs: int, rng: random.Random
) -> None:
    """The table's rows, each as soon as it is measured."""
    for measure in measured:
        pairs = compare(measure, ours, other, n_pairs, rng)
        ratios = [one / two for one, two in pairs]
        low, high = interval(ratios)
        mine, theirs = (statistics.median(side) for side in zip(*pairs, strict=True))
        print(
            f"| {measure.name} | {mine:,.2f} | {theirs:,.2f} | "
            f"{statistics.median(ratios):.3f} | {low:.3f} to {high:.3f} | {measure.wanted} |",
            flush=True,
        )


def main() -> None:
    """Prints one table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("other", type=Path, help="a checkout of Shoal to compare with")
    parser.add_argument("--shards", type=int, default=4)
    parser.add_argument("--pairs", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--rate", type=float, default=400.0)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    index_dir = build(encoded_corpus([str(SHARED / "wordnet")], "wordnet"), n_shards=options.shards)
    rng = random.Random(options.seed)
    vectors_file = str((WORK / "questions.npy").resolve())
    print("| | this | other | ratio | 95 % | wanted |\n|---|--:|--:|--:|--:|--:|")
    here = Path(__file__).resolve().parents[1]
    with served_by(here, index_dir) as ours, served_by(options.other, index_dir) as other:
        measured = measures(vectors_file, options.seconds, options.rate)
        print_pairs(measured, ours, other, options.pairs, rng)


if __name__ == "__main__":
    main()
