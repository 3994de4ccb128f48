"""What Ray adds to a query: nothing, or this shows it: `make bench-ray`.

The same index is served twice on this machine at the same time, by `shoal up` and by
`shoal up --on ray` (a node of its own), each with 4 shards, no encoder and one router; loads go to
one and then the other, in pairs whose order is drawn.
"""

import argparse
import dataclasses
import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.against import measures, print_pairs
from bench.cluster import SHOAL, served
from bench.corpora import SHARED, WORK, build, encoded_corpus
from bench.ray_node import ray_head
from shoal.client import Client

NAME = "bench-on-ray"


@contextmanager
def served_on_ray(index_dir: Path, address: str) -> Iterator[str]:
    """`shoal up --on ray` of an index; yields the router's address, and takes it down again."""

    def shoal(*arguments: str) -> str:
        return subprocess.run(
            [SHOAL, *arguments, "--name", NAME], check=True, capture_output=True, text=True
        ).stdout

    told = shoal("up", "--on", "ray", "--ray-address", address, "--host", "127.0.0.1", "--index",
                 str(index_dir.resolve()), "--json")  # fmt: skip
    try:
        target = str(json.loads(told)["target"])
        with Client(target) as client:
            client.wait_ready(timeout_s=60)
        yield target
    finally:
        shoal("down")


def main() -> None:
    """Prints one table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shards", type=int, default=4)
    parser.add_argument("--pairs", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--rate", type=float, default=200.0)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    index_dir = build(encoded_corpus([str(SHARED / "wordnet")], "wordnet"), n_shards=options.shards)
    vectors_file = str((WORK / "questions.npy").resolve())
    rng = random.Random(options.seed)
    with (
        tempfile.TemporaryDirectory(prefix="shoal-", dir="/tmp") as folder,
        ray_head(Path(folder)) as address,
        served_on_ray(index_dir, address) as on_ray,
        served(index_dir) as local,
    ):
        print(f"{options.shards} shards, {os.cpu_count()} cores, Python {sys.version.split()[0]}\n")
        print("| | on Ray | local | ratio | 95 % | wanted |\n|---|--:|--:|--:|--:|--:|")
        measured = [
            dataclasses.replace(measure, wanted="<= 1.05" if " ms" in measure.name else ">= 0.95")
            for measure in measures(vectors_file, options.seconds, options.rate)
        ]
        print_pairs(measured, on_ray, local, options.pairs, rng)


if __name__ == "__main__":
    main()
