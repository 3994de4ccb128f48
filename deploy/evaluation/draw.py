"""The waterfall as a PNG: a bar a step, hanging from the level before it."""

import io
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deploy.evaluation.waterfall import Level, points
from shoal.formats.files import guard_storage, write_durably

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_LOST, _WON, _WHOLE = "tab:red", "tab:green", "tab:blue"


def draw_waterfall(path: Path, levels: Sequence[Level], title: str) -> None:
    """Writes one panel a metric: the first and the last level whole, between them each change.

    Raises:
        StorageError: the file can't be written.
    """
    drawn = io.BytesIO()
    waterfall_figure(levels, title).savefig(drawn, dpi=120, format="png")
    with guard_storage(path):
        write_durably(path, drawn.getvalue())


def waterfall_figure(levels: Sequence[Level], title: str) -> "Figure":
    """What `draw_waterfall` writes."""
    from matplotlib.figure import Figure  # noqa: PLC0415 -- an optional extra

    metrics = list(levels[0].values)
    names = [levels[0].name, *(level.change for level in levels[1:]), "served"]
    figure = Figure(figsize=(6.0 * len(metrics) + 3.0, 0.45 * len(names) + 1.5),
                    layout="constrained")  # fmt: skip
    panels = figure.subplots(1, len(metrics), squeeze=False, sharey=True)[0]
    for panel, metric in zip(panels, metrics, strict=True):
        _draw_panel(panel, metric, [100 * level.figure(metric) for level in levels])
        panel.set_yticks(range(len(names)), names, fontsize="small")
    panels[0].invert_yaxis()
    figure.suptitle(title)
    return figure


def _draw_panel(panel: Any, metric: str, figures: Sequence[float]) -> None:
    room = max(0.5, 0.15 * (max(figures) - min(figures)))
    left = min(figures) - room
    for row, figure in ((0, figures[0]), (len(figures), figures[-1])):
        panel.barh(row, figure - left, left=left, color=_WHOLE)
        panel.annotate(f"{figure:.2f}", (figure, row), xytext=(-4, 0), textcoords="offset points",
                       va="center", ha="right", fontsize="small", color="white")  # fmt: skip
    for row, (before, after) in enumerate(pairwise(figures), start=1):
        panel.barh(row, after - before, left=before, color=_LOST if after < before else _WON)
        panel.plot([before, before], [row - 1, row], color="gray", linewidth=0.5)
        panel.annotate(points(after - before, sign="+"), (max(before, after), row), xytext=(3, 0),
                       textcoords="offset points", va="center", fontsize="small")  # fmt: skip
    # what differs is small beside what does not: bars from 0 would show nothing
    panel.set(xlabel=f"{metric}, % (from {left:.1f})", xlim=(left, max(figures) + room))
    panel.grid(visible=True, axis="x", alpha=0.3)
