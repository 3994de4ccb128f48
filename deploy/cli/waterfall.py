"""`shoal eval --waterfall`: where each point was lost between exact search and the answer."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deploy.cli.flags import refuse_url
from deploy.cli.output import progress, write, write_json, write_table
from shoal.errors import ConfigError
from shoal.requests import SearchOptions

if TYPE_CHECKING:
    from deploy.evaluation.sources import SetSource
    from deploy.evaluation.waterfall import Level
    from shoal.evaluation.score import EvalPlan, EvalReport


@dataclass(frozen=True, slots=True)
class WaterfallFlags:
    """`index` is the folder; see the command's help for the others."""

    index: str
    float32: Path | None
    png: Path | None
    device: str


def explain(
    plan: "EvalPlan | None", sources: "Sequence[SetSource]", flags: WaterfallFlags, *, as_json: bool
) -> None:
    """Measures, explains, and writes.

    Raises:
        ConfigError: no index folder, no cluster, or several sets.
    """
    from deploy.calibration.draw import check_drawing
    from deploy.evaluation.draw import draw_waterfall
    from deploy.evaluation.explain import Loaders
    from deploy.evaluation.explain import explain as run
    from deploy.evaluation.offline_encoder import open_offline
    from shoal.evaluation.metrics import parse_metrics
    from shoal.evaluation.score import evaluate
    from shoal.formats.versions import load_manifest

    if plan is None or len(sources) != 1:
        raise ConfigError("--waterfall explains one set through a running cluster")
    if not flags.index:
        raise ConfigError("--waterfall needs the index's folder: --index DIR")
    sums = [metric.name for metric in parse_metrics(plan.metrics) if not metric.is_mean]
    if sums:
        raise ConfigError(f"--waterfall explains means over questions; {sums[0]} is none")
    if flags.png is not None:
        check_drawing()
    folder = refuse_url(Path(flags.index))
    manifest = load_manifest(folder)
    options: SearchOptions = {**plan.options, "index": manifest.name, "min_coverage": 0.0}
    loaders = Loaders(
        cutting=lambda contract: open_offline(contract, flags.device, whole_texts=False),
        whole=lambda contract: open_offline(contract, flags.device, whole_texts=True),
    )
    questions = sources[0].questions
    with progress() as show:
        report = evaluate(
            replace(plan, options=options), questions,
            lambda done, total: show("queries", done, total),
        )  # fmt: skip
        levels = run(
            folder, questions, report, loaders,
            exact=bool(plan.options.get("exact")), float32_dir=flags.float32, progress=show,
        )  # fmt: skip
    if flags.png is not None:
        title = f"{questions.name}: {manifest.name} version {manifest.version}, {manifest.recipe}"
        draw_waterfall(flags.png, levels, title)
    if as_json:
        write_json(_json(levels, report))
    else:
        _write(levels, report)


def _write(levels: "Sequence[Level]", report: "EvalReport") -> None:
    from deploy.evaluation.waterfall import steps_of, total_lost

    metrics = list(levels[0].values)
    header = ["step", *(name for metric in metrics for name in (metric, "lost", "questions"))]
    rows: list[tuple[str, ...]] = []
    first = [cell for metric in metrics for cell in (_points(levels[0].figure(metric)), "", "")]
    rows.append((levels[0].name, *first))
    for level, step in zip(levels[1:], steps_of(levels), strict=True):
        cells: list[str] = []
        for metric in metrics:
            moved = f"-{step.n_lost[metric]} +{step.n_won[metric]}"
            cells += [_points(level.figure(metric)), _points(step.lost[metric]), moved]
        rows.append((step.change, *cells))
    total = total_lost(levels)
    rows.append(("in all", *(c for m in metrics for c in ("", _points(total[m]), ""))))
    write_table(header, rows)
    write(
        f"{report.n_queries:,} queries, k {report.k}, index {report.index} version "
        f"{report.version}, n_probe {report.n_probe}, candidates {report.candidates}, least "
        f"coverage {report.coverage:.3f}; in points of a hundred, a loss below 0 is a gain"
    )


def _points(share: float) -> str:
    return f"{100 * share + 0.0:.2f}"


def _json(levels: "Sequence[Level]", report: "EvalReport") -> dict[str, Any]:
    from deploy.evaluation.waterfall import steps_of, total_lost

    return {
        **report.metrics,
        "levels": [
            {"name": level.name, **{metric: level.figure(metric) for metric in level.values}}
            for level in levels
        ],
        "steps": [
            {"change": step.change, "lost": dict(step.lost), "n_lost": dict(step.n_lost),
             "n_won": dict(step.n_won)}
            for step in steps_of(levels)
        ],
        "lost": total_lost(levels),
        "n_queries": report.n_queries,
        "k": report.k,
        "index": report.index,
        "version": report.version,
        "n_probe": report.n_probe,
        "candidates": report.candidates,
        "coverage": report.coverage,
    }  # fmt: skip
