"""What it costs to be seen: metrics that are read, traces that are sent.

`make bench-observability`. Clusters of the same index stand side by side on this machine, and a
closed loop of 64 clients goes to one with and one without, in pairs whose order is drawn; the
ratio's median has its bootstrap interval. Processes count whether or not anybody reads them, so
with metrics means that every page is read each second. Traces go to a real OTLP receiver on the
same cores, where a cluster's own collector would not be; queries are vectors, of which most go
through a router, so that what a trace costs there weighs most.
"""

import argparse
import contextlib
import json
import os
import random
import statistics
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench.against import interval
from bench.cluster import SHOAL
from bench.corpora import SHARED, WORK, EncodedCorpus, build, encoded_corpus
from shoal.bench.load import run_load
from shoal.bench.plan import LoadPlan
from shoal.client import Client

_N_QUERIES = 4_096
_CLIENTS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """A running cluster: its router, and every process's Prometheus page, host:port."""

    target: str
    pages: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """One row: loads on `on` (inside `beside`) and on `off`."""

    name: str
    on: Served
    off: Served
    wanted: str
    beside: Callable[[], AbstractContextManager[None]] = contextlib.nullcontext


@contextlib.contextmanager
def served(index_dir: Path, name: str, *flags: str) -> Iterator[Served]:
    """`shoal up` with flags; takes everything down again."""
    name = f"bench-{os.getpid()}-{name}"

    def shoal(*arguments: str) -> str:
        return subprocess.run(
            [SHOAL, *arguments, "--name", name], check=True, stdout=subprocess.PIPE, text=True
        ).stdout

    shoal("up", "--index", str(index_dir), "--port", "0", "--detach", *flags)
    try:
        status = json.loads(shoal("status", "--json"))
        with Client(status["target"]) as client:
            client.wait_ready(timeout_s=60)
        pages = tuple(process["metrics"] for process in status["processes"])
        yield Served(target=status["target"], pages=pages)
    finally:
        shoal("down")


@contextlib.contextmanager
def collecting(log: Path) -> Iterator[str]:
    """A receiver in a process of its own; yields host:port. `log` ends with the spans it got."""
    with log.open("w") as told:
        receiver = subprocess.Popen(
            [sys.executable, "-m", "bench.otlp_receiver", "--port", "0", "--count"], stdout=told
        )
    try:
        end_s = time.monotonic() + 30
        while not (lines := log.read_text().split()):
            if time.monotonic() > end_s or receiver.poll() is not None:
                raise SystemExit("the receiver of traces did not start")
            time.sleep(0.05)
        yield lines[0]
    finally:
        receiver.terminate()
        receiver.wait()


@contextlib.contextmanager
def scraped(pages: tuple[str, ...]) -> Iterator[None]:
    """Reads the pages each second, as Prometheus would at its most eager."""
    ended = threading.Event()

    def read() -> None:
        while not ended.wait(1.0):
            for page in pages:
                with urllib.request.urlopen(f"http://{page}/metrics", timeout=10) as reply:
                    reply.read()

    reader = threading.Thread(target=read)
    reader.start()
    try:
        yield
    finally:
        ended.set()
        reader.join()


def queries_file(corpus: EncodedCorpus) -> str:
    """Distinct query vectors of the corpus's own, as a file."""
    rows = np.random.default_rng(0).permutation(len(corpus.vectors))[:_N_QUERIES]
    path = WORK / f"{corpus.name}-queries.npy"
    np.save(path, corpus.vectors[np.sort(rows)])
    return str(path.resolve())


def row(
    comparison: Comparison, load: Callable[[Served], float], n_pairs: int, rng: random.Random
) -> str:
    """A row of the table, from pairs of loads, each right after the other."""
    pairs = []
    for _ in range(n_pairs):
        found: dict[bool, float] = {}
        for is_on in rng.sample((True, False), 2):
            with comparison.beside() if is_on else contextlib.nullcontext():
                found[is_on] = load(comparison.on if is_on else comparison.off)
        pairs.append((found[True], found[False]))
    ratios = [on / off for on, off in pairs]
    low, high = interval(ratios)
    with_it, without = (statistics.median(side) for side in zip(*pairs, strict=True))
    return (
        f"| {comparison.name} | {with_it:,.0f} | {without:,.0f} | "
        f"{statistics.median(ratios):.3f} | {low:.3f} to {high:.3f} | {comparison.wanted} |"
    )


def main() -> None:
    """Prints one table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--corpus", default=str(SHARED / "wordnet"))
    parser.add_argument("--shards", type=int, default=4)
    parser.add_argument("--pairs", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    corpus = encoded_corpus([options.corpus], Path(options.corpus).name)
    index_dir = build(corpus, n_shards=options.shards)
    vectors_file = queries_file(corpus)

    def load(cluster: Served) -> float:
        report = run_load(
            LoadPlan(target=cluster.target, clients=_CLIENTS, duration_s=options.seconds,
                     warmup_s=1.0, vectors_file=vectors_file)
        )  # fmt: skip
        if report.errors:
            raise SystemExit(f"errors, so it means nothing: {report.errors}")
        return report.queries_per_s

    log = WORK / "otlp_receiver.log"
    with contextlib.ExitStack() as stack:
        collector = stack.enter_context(collecting(log))
        plain = stack.enter_context(served(index_dir, "plain"))
        traced = [
            stack.enter_context(
                served(index_dir, f"traced-{number}",
                       "--traces-otlp", collector, "--trace-sample", share)
            )
            for number, share in enumerate(("0.01", "1"))
        ]  # fmt: skip
        print(f"{options.shards} shards, {_CLIENTS} clients, {os.cpu_count()} cores, "
              f"Python {sys.version.split()[0]}\n")  # fmt: skip
        print("| | with, q/s | without, q/s | ratio | 95 % | wanted |\n|---|--:|--:|--:|--:|--:|")
        rng = random.Random(options.seed)
        for comparison in (
            Comparison(name="every metrics page read each second", on=plain, off=plain,
                       wanted=">= 0.95", beside=lambda: scraped(plain.pages)),
            Comparison(name="traces, 1 % sampled", on=traced[0], off=plain, wanted=">= 0.95"),
            Comparison(name="traces, all sampled", on=traced[1], off=plain, wanted="reported"),
        ):  # fmt: skip
            print(row(comparison, load, options.pairs, rng), flush=True)
            print(f"<!-- {log.read_text().split()[-1]} spans received -->", flush=True)


if __name__ == "__main__":
    main()
