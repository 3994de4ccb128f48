"""The curve: promised recall against time, as a PNG. The only place for matplotlib."""

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path

from deploy.calibration.choose import Point, front_of
from shoal.errors import ConfigError
from shoal.formats.files import guard_storage


def check_drawing() -> None:
    """Refuses before anything is measured where matplotlib is missing.

    Raises:
        ConfigError: saying what to install.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise ConfigError("--png needs matplotlib: pip install 'shoal[plot]'")


def draw_curves(
    path: Path, points: Mapping[int, Sequence[Point]], title: str, target_recall: float
) -> None:
    """Writes one panel a k: a line for each number of candidates, and the front.

    Raises:
        StorageError: the file can't be written.
    """
    from matplotlib.figure import Figure  # noqa: PLC0415 -- an optional extra

    figure = Figure(figsize=(6.0 * len(points), 4.5), layout="constrained")
    panels = figure.subplots(1, len(points), squeeze=False)[0]
    for panel, (k, of_k) in zip(panels, sorted(points.items()), strict=True):
        for candidates in sorted({point.candidates for point in of_k}):
            line = sorted(
                (p for p in of_k if p.candidates == candidates), key=lambda p: (p.ms, p.n_probe)
            )
            panel.plot(
                [p.ms for p in line], [p.promised for p in line],
                marker=".", linewidth=1, label=f"{candidates} candidates",
            )  # fmt: skip
        front = front_of(of_k)
        panel.step(
            [p.ms for p in front], [p.promised for p in front],
            where="post", color="black", linewidth=1.5, label="operating points",
        )  # fmt: skip
        panel.axhline(target_recall, color="gray", linestyle=":", linewidth=1)
        panel.set(xlabel="ms a query, batches of 64", ylabel=f"recall@{k} promised",
                  xscale="log")  # fmt: skip
        panel.grid(visible=True, alpha=0.3)
        panel.legend(fontsize="small")
    figure.suptitle(title)
    with guard_storage(path):
        figure.savefig(path, dpi=120, format="png")
