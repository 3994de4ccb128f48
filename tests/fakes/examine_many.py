"""Examines mutation after mutation of files, each in a forked child: N SEED INDEX=FILE...

Prints for each file a JSON object of counts by how the children ended: `refused`, `sound`, `killed`
(while the file was examined, which a child is for), and `late` for those that died in searching
what the examination had found sound. Forked, because starting Python costs twenty times the
examination.
"""

import json
import os
import random
import sys
import time
from collections import Counter
from pathlib import Path

import faiss
import numpy as np
from fakes.hostile_files import mutate, numbers_in, replace_file

from shard_server import examine
from shard_server.devices import CpuBackend
from shard_server.examination import allowance
from shard_server.index import ShardIndex
from shard_server.limits import SearchParameters
from shoal.errors import ShoalError
from shoal.formats.manifest import Manifest
from shoal.formats.versions import check_file, load_manifest


def search_all(index_dir: Path, manifest: Manifest) -> None:
    """Every list and every row."""
    index = ShardIndex.place(manifest, 0, ShardIndex.read(index_dir, manifest, 0), CpuBackend())
    queries = np.random.default_rng(1).standard_normal((8, manifest.dim), dtype=np.float32)
    n_probe = manifest.n_lists
    for parameters in (
        SearchParameters(k=100, exact=True),
        SearchParameters(k=100, n_probe=n_probe),
        SearchParameters(k=100, n_probe=n_probe, candidates=1_000),
    ):
        index.search(queries, parameters)
    for file in index.passages:
        rows = np.arange(file.n_rows)
        file.take(rows, ("id", "title", "text"))
        file.metadata(rows)


def child(index_dir: Path, manifest: Manifest) -> int:
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    allowed = allowance(manifest, 0)
    examine.allow(allowed.extra_bytes, 2)
    try:
        examine.examine(index_dir, manifest, 0)
    except ShoalError:
        return 78
    except Exception:  # noqa: BLE001 -- whatever hostile bytes raise
        return 70  # as Python ends: the parent refuses the file all the same
    Path(index_dir / "sound").touch()
    search_all(index_dir, manifest)
    return 0


def one(index_dir: Path, manifest: Manifest) -> str:
    (index_dir / "sound").unlink(missing_ok=True)
    pid = os.fork()
    if not pid:
        code = 1
        try:
            code = child(index_dir, manifest)
        finally:
            os._exit(code)
    _, status = os.waitpid(pid, 0)
    if (index_dir / "sound").exists():
        return "sound" if status == 0 else "late"
    if os.WIFSIGNALED(status):
        return "killed"
    return "refused"


def main(n_mutations: str, seed: str, *files: str) -> None:
    faiss.omp_set_num_threads(1)
    for file in files:
        folder, _, name = file.rpartition("=")
        mutate_one(Path(folder), name, int(n_mutations), seed)


def mutate_one(index_dir: Path, name: str, n_mutations: int, seed: str) -> None:
    live = load_manifest(index_dir)
    entry = getattr(live.shards[0].segments[0].files, name)
    content = (index_dir / entry.path).read_bytes()
    index = faiss.read_index(str(index_dir / entry.path)) if name in {"index", "vectors"} else None
    numbers = numbers_in(live, index)
    # the unharmed files first: what Python loads at the first use, every fork then has
    examine.examine(index_dir, live, 0)
    search_all(index_dir, live)
    counts: Counter[str] = Counter()
    worst_s = 0.0
    for number in range(n_mutations):
        mutated = mutate(content, numbers, random.Random(f"{seed}-{number}"))
        manifest, path = replace_file(index_dir, live, name, mutated)
        for listed in manifest.entries():
            check_file(index_dir, listed)
        begun_s = time.monotonic()
        ended = one(index_dir, manifest)
        worst_s = max(worst_s, time.monotonic() - begun_s)
        counts[ended] += 1
        if ended == "late":
            sys.stderr.write(f"seed {seed}-{number} is a hole\n")
        if mutated != content:
            path.unlink()
    print(json.dumps({**counts, "worst_s": round(worst_s, 2)}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
