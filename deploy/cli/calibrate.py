"""`shoal index calibrate`: measure recall, and record what to promise."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deploy.cli import flags
from deploy.cli.output import note, progress, write, write_json, write_table

if TYPE_CHECKING:
    from deploy.calibration.choose import Point
    from deploy.calibration.questions import QuestionEncoder


def calibrate(
    *,
    index: flags.IndexDir,
    queries: Annotated[
        Path | None,
        typer.Option(
            "--queries",
            help="Questions as JSONL or TSV, plain or .gz, or vectors as .npy. Default: made of "
            "the index's own passages, each left out of its own search.",
        ),
    ] = None,
    ks: Annotated[
        list[int] | None,
        typer.Option("-k", help="Hits to measure recall at; may be given several times. "
                     "Default: 10 and 100."),
    ] = None,
    n_queries: Annotated[
        int, typer.Option("--n-queries", min=30, help="Queries measured, at most.")
    ] = 1000,
    target_recall: Annotated[
        float,
        typer.Option("--target-recall", help="Recall that the defaults are set for, at the "
                     "smallest k."),
    ] = 0.95,
    png: Annotated[
        Path | None, typer.Option("--png", help="Draw recall against time into this file.")
    ] = None,
    device: Annotated[
        str, typer.Option("--device", help="Where to encode: auto, cpu or cuda:N.")
    ] = "auto",
    as_json: flags.Json = False,
) -> None:  # fmt: skip
    """Measure recall over n_probe and oversample, and make a version that records it."""
    from deploy.calibration.draw import check_drawing, draw_curves
    from deploy.calibration.run import CalibrateOptions, calibrate_index

    def load(model: str) -> "QuestionEncoder":
        from encoder_service.bulk import PassageEncoder
        from encoder_service.model import load_encoder

        return PassageEncoder(load_encoder(model, device=device))

    if png is not None:
        check_drawing()
    options = CalibrateOptions(
        queries_file=queries,
        ks=tuple(ks) if ks else CalibrateOptions().ks,
        n_queries=n_queries,
        target_recall=target_recall,
    )
    with progress() as show:
        calibrated = calibrate_index(index, options, load, show)
    manifest, default = calibrated.manifest, calibrated.default
    if png is not None:
        title = f"{manifest.name} version {manifest.version}, {manifest.recipe}"
        draw_curves(png, calibrated.points, title, target_recall)
    if as_json:
        write_json({
            "index": manifest.name,
            "version": manifest.version,
            "calibration": manifest.calibration.model_dump() if manifest.calibration else None,
            "kinds": calibrated.kind_counts,
            "default": _row(default),
            "points": [_row(point) for k in calibrated.points for point in calibrated.points[k]],
        })  # fmt: skip
        return
    for of_k in calibrated.points.values():
        _write_points([point for point in of_k if point.on_front])
    made_of = ", ".join(f"{count:,} {name}" for name, count in calibrated.kind_counts.items())
    write(
        f"index {manifest.name!r} version {manifest.version}: {len(manifest.operating_points)} "
        f"operating points, measured with {made_of}"
    )
    write(
        f"default: n_probe {default.n_probe}, oversample {default.oversample:g}, which promises "
        f"recall@{default.k} {default.promised:.3f}"
    )
    if default.promised < target_recall:
        note(
            f"note: no setting promises recall {target_recall:g}; the default is the best there is"
        )


def _write_points(points: "list[Point]") -> None:
    write_table(
        ("k", "n_probe", "oversample", "candidates", "recall", "promised", "ms a query"),
        [
            (p.k, p.n_probe, round(p.oversample, 2), p.candidates, round(p.recall, 4),
             round(p.promised, 4), round(p.ms, 3))
            for p in points
        ],
    )  # fmt: skip
    write()


def _row(point: "Point") -> dict[str, object]:
    return {
        "k": point.k,
        "n_probe": point.n_probe,
        "oversample": point.oversample,
        "candidates": point.candidates,
        "recall": point.recall,
        "promised": point.promised,
        "ms": point.ms,
        "on_front": point.on_front,
    }
