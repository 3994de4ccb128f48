"""The waterfall as a PNG: a bar a step, hanging from the level before it."""

import io
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from deploy.evaluation.waterfall import Level
from shoal.formats.files import guard_storage, write_durably

_LOST, _WON, _WHOLE = "tab:red", "tab:green", "tab:blue"


def draw_waterfall(path: Path, levels: Sequence[Level], title: str) -> None:
    """Writes one panel a metric: the first and the last level whole, between them each change.

    Raises:
        StorageError: the file can't be written.
    """
    from matplotlib.figure import Figure  # noqa: PLC0415 -- an optional extra

    metrics = list(levels[0].values)
    names = [levels[0].name, *(level.change for level in levels[1:]), "served"]
    figure = Figure(figsize=(6.0 * len(metrics) + 3.0, 0.45 * len(names) + 1.5),
                    layout="constrained")  # fmt: skip
    panels = figure.subplots(1, len(metrics), squeeze=False, sharey=True)[0]
    for panel, metric in zip(panels, metrics, strict=True):
        points = [100 * level.figure(metric) for level in levels]
        room = max(0.5, 0.15 * (max(points) - min(points)))
        left = min(points) - room
        panel.barh(0, points[0] - left, left=left, color=_WHOLE)
        for number, (before, after) in enumerate(pairwise(points), start=1):
            panel.barh(number, after - before, left=before, color=_LOST if after < before else _WON)
            panel.plot([before, before], [number - 1, number], color="gray", linewidth=0.5)
            panel.annotate(f"{after - before:+.2f}", (max(before, after), number),
                           xytext=(3, 0), textcoords="offset points", va="center",
                           fontsize="small")  # fmt: skip
        panel.barh(len(points), points[-1] - left, left=left, color=_WHOLE)
        panel.set(xlabel=f"{metric}, %", xlim=(left, max(points) + room))
        panel.set_yticks(range(len(names)), names, fontsize="small")
        panel.grid(visible=True, axis="x", alpha=0.3)
    panels[0].invert_yaxis()
    figure.suptitle(title)
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=120, format="png")
    with guard_storage(path):
        write_durably(path, drawn.getvalue())
