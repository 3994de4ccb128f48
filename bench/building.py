"""Memory and time of a build by the number of vectors: `make bench-building`.

Each size is built by `shoal index build --vectors` in a process of its own, from clustered vectors
that are made a chunk at a time. Memory is the process's anonymous resident memory (RssAnon),
sampled; mapped files, which the system takes back at need, are told apart.
"""

import argparse
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from bench.synthetic import write_clustered

WORK = Path(".build/bench/building")
SIZES = (100_000, 500_000, 2_000_000)
DIM = 384
_SAMPLE_EVERY_S = 0.05
_STAGES = ("read", "encode", "train", "fill")


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """One build. Bytes are peaks; `stage_s` is how long each stage was the one at work."""

    n_vectors: int
    recipe: str
    seconds: float
    anon_bytes: int
    file_bytes: int
    index_bytes: int
    stage_s: dict[str, float] = field(default_factory=dict)


def build(vectors: Path, n_vectors: int, arguments: Sequence[str]) -> Built:
    """Build an index of the vectors in a process of its own, and watch it."""
    index_dir = WORK / f"index-{n_vectors}"
    shutil.rmtree(index_dir, ignore_errors=True)
    command = [
        sys.executable, "-c", "from deploy.cli.main import main; main()", "index", "build",
        "--vectors", str(vectors), "--index", str(index_dir), "--json", *arguments,
    ]  # fmt: skip
    begun_s = time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        peaks = {"RssAnon": 0, "RssFile": 0}
        stage_s = dict.fromkeys(_STAGES, 0.0)
        looked_s = begun_s
        for now_s in _while_running(process):
            for name, n_bytes in _memory(process.pid).items():
                peaks[name] = max(peaks[name], n_bytes)
            stage_s[_stage(index_dir)] += now_s - looked_s
            looked_s = now_s
        seconds = time.monotonic() - begun_s
        assert process.stdout is not None
        said = process.stdout.read()
    if process.returncode:
        raise SystemExit(f"the build of {n_vectors:,} vectors ended with {process.returncode}")
    index_bytes = sum(path.stat().st_size for path in index_dir.rglob("*") if path.is_file())
    shutil.rmtree(index_dir)
    return Built(
        n_vectors=n_vectors,
        recipe=json.loads(said)["recipe"],
        seconds=seconds,
        anon_bytes=peaks["RssAnon"],
        file_bytes=peaks["RssFile"],
        index_bytes=index_bytes,
        stage_s=stage_s,
    )


def _while_running(process: subprocess.Popen[str]) -> Iterator[float]:
    while process.poll() is None:
        yield time.monotonic()
        time.sleep(_SAMPLE_EVERY_S)


def _memory(pid: int) -> dict[str, int]:
    """RssAnon and RssFile in bytes; nothing once the process has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return {}
    found = (line.split() for line in lines if line.startswith(("RssAnon:", "RssFile:")))
    return {words[0].rstrip(":"): 1024 * int(words[1]) for words in found}


def _stage(index_dir: Path) -> str:
    """The stage at work, by what lies in the staging folder."""
    names = {path.name.partition("-")[0] for path in (index_dir / ".staging").glob("*")}
    if names & {"split", "index"}:
        return "fill"
    if names & {"sample", "train"}:
        return "train"
    return "encode" if names & {"copy", "encode"} else "read"


def table(found: Sequence[Built]) -> str:
    """Markdown."""
    heads = (
        "vectors", "recipe", "time", "read / copy / train / fill", "RssAnon, peak",
        "a vector more", "index on disk",
    )  # fmt: skip
    lines = [f"| {' | '.join(heads)} |", "|--:|---|--:|--:|--:|--:|--:|"]
    before: Built | None = None
    for run in found:
        stages = " / ".join(f"{run.stage_s[name]:.0f}" for name in _STAGES)
        more = ""
        if before is not None:
            n_more = run.n_vectors - before.n_vectors
            more = f"{(run.anon_bytes - before.anon_bytes) / n_more:,.0f} B"
        lines.append(
            f"| {run.n_vectors:,} | {run.recipe} | {run.seconds:.0f} s | {stages} s "
            f"| {run.anon_bytes / 1e6:,.0f} MB | {more} | {run.index_bytes / 1e6:,.0f} MB |"
        )
        before = run
    return "\n".join(lines)


def draw(found: Sequence[Built], path: Path) -> None:
    """Time and memory over vectors, side by side."""
    import matplotlib as mpl  # noqa: PLC0415 -- for the plot alone

    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415

    n_vectors = [run.n_vectors / 1e6 for run in found]
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    left.plot(n_vectors, [run.seconds for run in found], marker="o")
    left.set(title="time to build", xlabel="million vectors", ylabel="seconds")
    right.plot(n_vectors, [run.anon_bytes / 1e9 for run in found], marker="o", label="anonymous")
    right.axhline(4 * 1.073741824, linestyle="--", color="gray", label="4 GiB")
    right.set(title="peak memory", xlabel="million vectors", ylabel="GB")
    right.legend()
    for axes in (left, right):
        axes.set_xlim(left=0)
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def main() -> None:
    """Build each size, print the table, draw the plot."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--dim", type=int, default=DIM)
    parser.add_argument("--shards", type=int, default=4)
    parser.add_argument("--recipe", help="default: by size")
    parser.add_argument("--png", type=Path, default=Path("docs/building.png"))
    options = parser.parse_args()
    arguments = ["--shards", str(options.shards)]
    if options.recipe:
        arguments += ["--recipe", options.recipe]
    found = []
    for n_vectors in sorted(options.sizes):
        vectors = write_clustered(
            WORK / f"clustered-{n_vectors}x{options.dim}.npy",
            n_rows=n_vectors, dim=options.dim, dtype=np.float32,
        )  # fmt: skip
        found.append(build(vectors, n_vectors, arguments))
        print(f"{n_vectors:,}: {found[-1].seconds:.1f} s, {found[-1].anon_bytes / 1e6:,.0f} MB")
    print()
    print(table(found))
    draw(found, options.png)
    print(f"\nplot: {options.png}")


if __name__ == "__main__":
    main()
