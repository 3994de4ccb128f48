"""`shoal eval`: retrieval quality through a running cluster, beside baselines, or explained."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deploy.cli import flags
from deploy.cli.credentials import credentials_for, with_credentials
from deploy.cli.evaluate_output import note_what_is_odd, write_results
from deploy.cli.output import progress
from shoal.credentials import Credentials
from shoal.errors import ConfigError
from shoal.formats.files import check_writable

if TYPE_CHECKING:
    from deploy.evaluation.run import SetResult
    from deploy.evaluation.sources import SetSource
    from shoal.requests import SearchOptions


@with_credentials
def evaluate(
    *,
    queries: Annotated[
        Path | None,
        typer.Option("--queries", help="JSONL or TSV, plain or .gz, or DPR's .json."),
    ] = None,
    qrels: Annotated[
        Path | None, typer.Option("--qrels", help="TSV or TREC, plain or .gz.")
    ] = None,
    sets: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="[NAME=][INDEX:]FOLDER",
                     help="A BEIR folder or DPR's .json in place of --queries and --qrels; may be "
                     "given several times."),
    ] = None,
    metrics: Annotated[
        str,
        typer.Option("--metrics", help="Metrics of ir-measures, and Answer@K, which counts a "
                     "passage that holds an answer string; with spaces between."),
    ] = "Success@1 Success@20 nDCG@10",
    k: Annotated[
        int | None, typer.Option("-k", help="Hits a query. Default: the highest cutoff.")
    ] = None,
    baseline: Annotated[
        list[str] | None,
        typer.Option("--baseline", metavar="[bm25|tfidf]",
                     help="A sparse search over --corpus beside the cluster; may be "
                     "given twice."),
    ] = None,
    corpus: Annotated[
        str | None,
        typer.Option("--corpus", help="What the baseline searches. Default: the set's own."),
    ] = None,
    offline: Annotated[
        bool, typer.Option("--offline", help="Leave the cluster out: the baselines alone.")
    ] = False,
    compare: Annotated[
        bool, typer.Option("--compare", help="Which questions each search wins, by the first "
                           "metric, with examples.")
    ] = False,
    n_examples: Annotated[int, typer.Option("--examples", min=0, help="Questions shown.")] = 3,
    run: Annotated[
        Path | None,
        typer.Option("--run", metavar="FILE", help="Write the ranking as a TREC run: the "
                     "cluster's, with --offline the first baseline's."),
    ] = None,
    dpr_json: Annotated[
        Path | None,
        typer.Option("--dpr-json", metavar="FILE", help="Write hits and answers as DPR does."),
    ] = None,
    waterfall: Annotated[
        bool, typer.Option("--waterfall", help="Say where each point was lost, from exact float32 "
                           "search to the served answer; needs --index DIR.")
    ] = False,
    float32: Annotated[
        Path | None,
        typer.Option("--float32", metavar="FOLDER", help="With --waterfall: encode the passages "
                     "again, unrounded and whole, and keep that here; an index built with "
                     "--keep-float32 brings its own."),
    ] = None,
    png: Annotated[
        Path | None, typer.Option("--png", help="With --waterfall: draw it into this file.")
    ] = None,
    device: Annotated[
        str, typer.Option("--device", help="With --waterfall: where to encode.")
    ] = "auto",
    target: flags.Target = None,
    index: Annotated[
        str, typer.Option("--index", metavar="NAME|DIR", help="The index's name, empty where one "
                          "is served; its folder with --waterfall.")
    ] = "",
    n_probe: flags.NProbe = None,
    oversample: flags.Oversample = None,
    exact: flags.Exact = False,
    target_recall: flags.TargetRecall = None,
    timeout_s: flags.Timeout = 60.0,
    name: flags.GivenName = None,
    as_json: flags.Json = False,
    given: Credentials,
) -> None:  # fmt: skip
    """Measure retrieval quality through a running cluster, and beside sparse baselines."""
    from deploy.evaluation.run import measure_sets
    from shoal.evaluation.metrics import split_metrics
    from shoal.evaluation.score import EvalPlan
    from shoal.evaluation.sparse import parse_baselines

    baselines = parse_baselines(baseline or ())
    _refuse_nonsense([
        (not waterfall and (float32 or png or device != "auto"),
         "--float32, --png and --device belong to --waterfall"),
        (corpus and not baselines,
         "--corpus is what a --baseline searches; give --baseline bm25 or tfidf"),
        (waterfall and (baselines or compare or run or dpr_json),
         "--waterfall explains the cluster alone; measure baselines by themselves"),
        (compare and len(baselines) + (not offline) < 2,
         "--compare needs two searches; give --baseline bm25 or tfidf"),
        (offline and (n_probe or oversample is not None or exact or target_recall),
         "--n-probe, --oversample, --exact, --target-recall are the cluster's; drop --offline"),
    ])  # fmt: skip
    options: SearchOptions = {
        "n_probe": n_probe,
        "oversample": oversample,
        "exact": exact or None,
        "target_recall": target_recall,
    }
    names = split_metrics(metrics)
    plan = None
    if not offline:
        address = flags.find_target(target, name)
        plan = EvalPlan(
            target=address,
            credentials=credentials_for(address, given, name),
            metrics=names,
            k=k,
            timeout_s=timeout_s,
            with_text=compare or dpr_json is not None,
            options=options,
        )
    sources = _sources(queries, qrels, sets, "" if waterfall else index)
    if (run or dpr_json) and len(sources) > 1:
        raise ConfigError("--run and --dpr-json take one set; measure each by itself")
    for path in (run, dpr_json, png):
        if path is not None:
            check_writable(path)
    if waterfall:
        from deploy.cli.waterfall import WaterfallFlags, explain

        explain(plan, sources, WaterfallFlags(index, float32, png, device), as_json=as_json)
        return
    with progress() as show:
        results = measure_sets(sources, plan, names, k, baselines, corpus or "", show)
    try:  # before the files, of which one that can't be written must not cost the figures
        write_results(
            results,
            compared_by=names[0] if compare else "",
            n_examples=n_examples,
            exact=exact,
            as_json=as_json,
        )
        note_what_is_odd(results)
    finally:  # nor does a reader who has seen enough (`| head`) cost the files
        _write_files(results[0], run, dpr_json)


def _refuse_nonsense(faults: list[tuple[object, str]]) -> None:
    """ConfigError with the first fault that holds."""
    for holds, told in faults:
        if holds:
            raise ConfigError(told)


def _sources(
    queries: Path | None, qrels: Path | None, sets: list[str] | None, index: str
) -> "list[SetSource]":
    from deploy.evaluation.sources import SetSource, parse_set
    from shoal.evaluation.sets import read_files

    if (queries is None) == (not sets):
        raise ConfigError("give --queries FILE with --qrels FILE, or --set FOLDER")
    if queries is None:
        if qrels is not None:
            raise ConfigError("--qrels goes with --queries; a --set brings its own")
        return [parse_set(given, index) for given in sets or ()]
    return [SetSource(questions=read_files(queries, qrels, queries.name), index=index)]


def _write_files(result: "SetResult", run: Path | None, dpr_json: Path | None) -> None:
    from shoal.evaluation.results import write_dpr_results, write_trec_run

    searcher, scored = next(iter(result.scored.items()))
    if run is not None:
        write_trec_run(run, scored.rankings, f"shoal-{searcher}")
    if dpr_json is not None:
        write_dpr_results(dpr_json, result.source.questions, scored.rankings)
