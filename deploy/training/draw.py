"""The curve of a training: loss and validation by step, as a PNG."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from shoal.formats.files import guard_storage

_WINDOW = 20


def draw_training(
    path: Path, losses: Sequence[float], validations: Sequence[Mapping[str, float]], title: str
) -> None:
    """Writes the loss (and its mean over 20 steps) above the validation's figures.

    Raises:
        StorageError: the file can't be written.
    """
    from matplotlib.figure import Figure  # noqa: PLC0415 -- an optional extra

    figure = Figure(figsize=(7.0, 6.0), layout="constrained")
    loss, accuracy = figure.subplots(2, 1, sharex=True)
    steps = range(1, len(losses) + 1)
    loss.plot(steps, losses, color="tab:blue", linewidth=0.5, alpha=0.4, label="a step")
    smooth = [
        sum(losses[max(0, i - _WINDOW) : i]) / min(i, _WINDOW) for i in range(1, len(losses) + 1)
    ]
    loss.plot(steps, smooth, color="tab:blue", label=f"mean of {_WINDOW} steps")
    loss.set(ylabel="loss")
    loss.legend(fontsize="small")
    at = [figures["step"] for figures in validations]
    for name in (key for key in validations[0] if key != "step"):
        accuracy.plot(at, [figures[name] for figures in validations], marker=".", label=name)
    accuracy.set(xlabel="step", ylabel="held-out questions")
    accuracy.legend(fontsize="small")
    for panel in (loss, accuracy):
        panel.grid(visible=True, alpha=0.3)
    figure.suptitle(title)
    with guard_storage(path):
        figure.savefig(path, dpi=120, format="png")
