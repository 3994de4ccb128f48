"""`shoal eval --waterfall`: where each point was lost between exact search and the answer."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deploy.cli.flags import refuse_url
from deploy.cli.output import note, progress, write, write_json, write_table
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
        ConfigError: no index folder, no cluster, several sets, or an index that is not the served.
    """
    folder = _check(plan, sources, flags)
    assert plan is not None

    from deploy.evaluation.draw import draw_waterfall
    from deploy.evaluation.explain import Encoders
    from deploy.evaluation.explain import explain as run
    from deploy.evaluation.ground import open_ground
    from deploy.evaluation.offline_encoder import open_offline
    from shoal.client import Client
    from shoal.evaluation.metrics import check_set, parse_metrics
    from shoal.evaluation.score import evaluate

    name = _index_name(folder, sources[0])
    shown = plan.credentials
    with Client(plan.target, token=shown.token, tls=shown.tls) as client:
        served = client.get_index(name, timeout_s=plan.timeout_s)
    ground = open_ground(folder, flags.float32, served.name, served.version)
    questions = sources[0].questions
    check_set(parse_metrics(plan.metrics), questions)
    if n_absent := ground.n_absent(questions):
        note(f"note: {n_absent:,} of the judged passages are not in index {name!r}")
    encoders = Encoders(
        cutting=open_offline(ground.encoder, flags.device, whole_texts=False),
        whole=lambda: open_offline(ground.encoder, flags.device, whole_texts=True),
    )
    options: SearchOptions = {**plan.options, "index": name, "min_coverage": 0.0}
    with progress() as show:
        report = evaluate(
            replace(plan, options=options), questions,
            lambda done, total: show("queries", done, total),
        )  # fmt: skip
        levels = run(
            ground, questions, report, encoders,
            exact=bool(plan.options.get("exact")), progress=show,
        )  # fmt: skip
    if as_json:
        write_json(_json(levels, report))
    else:
        _write(levels, report)
    if flags.png is not None:
        manifest = ground.manifest
        title = f"{questions.name}: {manifest.name} version {manifest.version}, {manifest.recipe}"
        draw_waterfall(flags.png, levels, title)


def _check(plan: "EvalPlan | None", sources: "Sequence[SetSource]", flags: WaterfallFlags) -> Path:
    """The index's folder; refuses what can be told without opening anything."""
    from deploy.calibration.draw import check_drawing
    from shoal.evaluation.metrics import parse_metrics

    if plan is None or len(sources) != 1:
        raise ConfigError("--waterfall explains one set through a running cluster")
    if not flags.index:
        raise ConfigError("--waterfall needs the index's folder: --index DIR")
    sums = [metric.name for metric in parse_metrics(plan.metrics) if not metric.is_mean]
    if sums:
        raise ConfigError(f"--waterfall explains means over questions; {sums[0]} is none")
    if flags.png is not None:
        check_drawing()
    return refuse_url(Path(flags.index))


def _index_name(folder: Path, source: "SetSource") -> str:
    """The name that the folder's index is served by."""
    from shoal.formats.versions import load_manifest

    name = load_manifest(folder).name
    if source.index not in {"", name}:
        raise ConfigError(f"--set asks index {source.index!r}, --index {folder} holds {name!r}")
    return name


def _write(levels: "Sequence[Level]", report: "EvalReport") -> None:
    from deploy.evaluation.waterfall import points, steps_of, total_lost

    metrics = list(levels[0].values)
    header = ["step", *(name for metric in metrics for name in (metric, "lost", "questions"))]
    rows: list[tuple[str, ...]] = []
    first = [
        cell for metric in metrics for cell in (points(100 * levels[0].figure(metric)), "", "")
    ]
    rows.append((levels[0].name, *first))
    for level, step in zip(levels[1:], steps_of(levels), strict=True):
        cells: list[str] = []
        for metric in metrics:
            moved = f"-{step.n_lost[metric]} +{step.n_won[metric]}"
            cells += [points(100 * level.figure(metric)), points(100 * step.lost[metric]), moved]
        rows.append((step.change, *cells))
    total = total_lost(levels)
    rows.append(("in all", *(c for m in metrics for c in ("", points(100 * total[m]), ""))))
    write_table(header, rows)
    write(
        f"{report.n_queries:,} queries, k {report.k}, index {report.index} version "
        f"{report.version}, n_probe {report.n_probe}, candidates {report.candidates}, least "
        f"coverage {report.coverage:.3f}; in points of a hundred, a loss below 0 is a gain"
    )


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
        "n_shrunk": report.n_shrunk,
        "coverage": report.coverage,
    }  # fmt: skip
