"""`shoal eval`: retrieval quality through a running cluster."""

from pathlib import Path
from typing import Annotated

import typer

from deploy.cli import flags
from deploy.cli.credentials import credentials_for, with_credentials
from deploy.cli.output import progress, write, write_json, write_table
from shoal.credentials import Credentials
from shoal.requests import SearchOptions


@with_credentials
def evaluate(
    *,
    queries: Annotated[Path, typer.Option("--queries", help="JSONL or TSV, plain or .gz.")],
    qrels: Annotated[Path, typer.Option("--qrels", help="TSV or TREC, plain or .gz.")],
    metrics: Annotated[
        str, typer.Option("--metrics", help="Metrics of ir-measures, with spaces between.")
    ] = "Success@1 Success@20 nDCG@10",
    k: Annotated[
        int | None, typer.Option("-k", help="Hits a query. Default: the highest cutoff.")
    ] = None,
    target: flags.Target = None,
    index: flags.IndexName = "",
    n_probe: flags.NProbe = None,
    oversample: flags.Oversample = None,
    exact: flags.Exact = False,
    target_recall: flags.TargetRecall = None,
    timeout_s: flags.Timeout = 60.0,
    name: flags.GivenName = None,
    as_json: flags.Json = False,
    given: Credentials,
) -> None:
    """Measure retrieval quality through a running cluster."""
    from shoal.evaluation.files import read_qrels, read_queries
    from shoal.evaluation.score import EvalPlan
    from shoal.evaluation.score import evaluate as run

    options: SearchOptions = {
        "index": index,
        "n_probe": n_probe,
        "oversample": oversample,
        "exact": exact or None,
        "target_recall": target_recall,
    }
    address = flags.find_target(target, name)
    plan = EvalPlan(
        target=address,
        credentials=credentials_for(address, given, name),
        metrics=tuple(metrics.replace(",", " ").split()),
        k=k,
        timeout_s=timeout_s,
        options=options,
    )
    with progress() as show:
        report = run(
            plan,
            read_queries(queries),
            read_qrels(qrels),
            lambda done, total: show("queries", done, total),
        )
    about = {
        "n_queries": report.n_queries,
        "k": report.k,
        "index": report.index,
        "version": report.version,
        "n_probe": report.n_probe,
        "candidates": report.candidates,
        "exact": exact,
        "n_truncated": report.n_truncated,
        "queries_per_s": round(report.queries_per_s, 1),
    }
    if as_json:
        write_json({**report.metrics, **about})
        return
    write_table(
        ("metric", "value"), [(metric, f"{value:.4f}") for metric, value in report.metrics.items()]
    )
    write(", ".join(f"{key} {value}" for key, value in about.items()))
