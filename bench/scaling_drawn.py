"""The run of `bench.scaling` as a picture: load, encoders and waits over time."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from bench.scaling_seconds import Second
from bench.slow_encoder import CAPACITY_PER_S


def draw(path: Path, seconds: Sequence[Second]) -> None:
    """Writes a PNG of three panels with one time axis."""
    times = [second.at_s for second in seconds]
    figure = Figure(figsize=(9.0, 6.5), layout="constrained")
    load, encoders, latency = figure.subplots(3, 1, sharex=True)
    load.step(times, [s.offered for s in seconds], where="post", label="offered", linewidth=1)
    load.step(
        times, [s.encoders * CAPACITY_PER_S for s in seconds], where="post", linestyle=":",
        label="capacity of the encoders that run",
    )  # fmt: skip
    load.step(times, [s.failed for s in seconds], where="post", color="red", label="failed")
    load.set(ylabel="queries/s")
    load.legend(fontsize="small")
    encoders.step(times, [s.encoders for s in seconds], where="post", color="black")
    encoders.set(ylabel="encoders that serve", yticks=[0, 1, 2, 3])
    latency.semilogy(times, [s.p99_ms for s in seconds], linewidth=1, label="p99")
    latency.semilogy(times, [s.p50_ms for s in seconds], linewidth=1, label="p50")
    latency.set(ylabel="ms, by when it was due", xlabel="seconds")
    latency.legend(fontsize="small")
    for panel in (load, encoders, latency):
        panel.grid(visible=True, alpha=0.3)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110, format="png")
