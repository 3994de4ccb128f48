"""`shoal bench`: load on a running cluster, and what it did."""

import asyncio
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deploy.cli import flags
from deploy.cli.credentials import credentials_for, with_credentials
from deploy.cli.output import counted, note, write, write_json, write_table
from shoal.credentials import Credentials
from shoal.errors import InvalidArgumentError, UnavailableError

if TYPE_CHECKING:  # the first needs hdrhistogram, which the bare install hasn't
    from shoal.bench.report import LoadReport
    from shoal.requests import SearchOptions


@with_credentials
def bench(
    *,
    rate: Annotated[
        float | None, typer.Option("--rate", help="Calls a second, whatever the answers do.")
    ] = None,
    clients: Annotated[
        int | None, typer.Option("--clients", help="Clients, each waiting for its answer.")
    ] = None,
    duration_s: Annotated[float, typer.Option("--duration", help="Seconds measured.")] = 10.0,
    warmup_s: Annotated[float, typer.Option("--warmup", help="Seconds before, left out.")] = 2.0,
    queries: Annotated[
        Path | None, typer.Option("--queries", help="Texts: JSONL or TSV, plain or .gz.")
    ] = None,
    vectors: Annotated[
        Path | None, typer.Option("--vectors", help="Query vectors: .npy of shape (n, dim).")
    ] = None,
    batch: Annotated[int, typer.Option("--batch", min=1, max=1024, help="Queries a call.")] = 1,
    connections: Annotated[int, typer.Option("--connections", min=1, help="Channels.")] = 4,
    k: Annotated[int, typer.Option("-k", help="Hits a query, 1 to 1,000.")] = 10,
    ids_only: Annotated[bool, typer.Option("--ids-only", help="Ask for no text.")] = False,
    target: flags.Target = None,
    index: flags.IndexName = "",
    n_probe: flags.NProbe = None,
    oversample: flags.Oversample = None,
    exact: flags.Exact = False,
    target_recall: flags.TargetRecall = None,
    timeout_s: flags.Timeout = 10.0,
    name: flags.GivenName = None,
    as_json: flags.Json = False,
    given: Credentials,
) -> None:
    """Put load on a running cluster: --rate R (open loop) or --clients N (closed loop)."""
    from shoal.bench import LoadPlan
    from shoal.bench.load import measure, refuse_bad_plan
    from shoal.client import Client
    from shoal.evaluation.files import read_queries

    if queries is not None and vectors is not None:
        raise InvalidArgumentError("give --queries or --vectors, one of them")
    options: SearchOptions = {
        "k": k,
        "index": index,
        "n_probe": n_probe,
        "oversample": oversample,
        "exact": exact or None,
        "target_recall": target_recall,
        "fields": () if ids_only else None,
    }
    if queries is None and vectors is None:
        note("note: eight built-in questions, which caches will know; --queries is more honest")
    address = flags.find_target(target, name)
    plan = LoadPlan(
        target=address,
        credentials=credentials_for(address, given, name),
        rate=rate,
        clients=clients,
        duration_s=duration_s,
        warmup_s=warmup_s,
        batch=batch,
        connections=connections,
        timeout_s=timeout_s,
        texts=tuple(read_queries(queries).values()) if queries else (),
        vectors_file=str(vectors) if vectors else "",
        options=options,
    )
    with Client(plan.target, token=plan.credentials.token, tls=plan.credentials.tls) as client:
        client.wait_ready(timeout_s=2.0)
    served = asyncio.run(refuse_bad_plan(plan))
    report = asyncio.run(measure(plan))
    if as_json:
        write_json({"target": plan.target, **dataclasses.asdict(served), **report.to_dict()})
    else:
        write(f"index {served.index!r} version {served.version} at {plan.target}")
        _write_report(report)
    if report.errors and not report.ok_ms.n + report.degraded_ms.n:
        raise UnavailableError("every call failed: " + ", ".join(sorted(report.errors)))


def _write_report(report: "LoadReport") -> None:
    parts = {
        "all, from due time": report.latency_ms,
        "full answers": report.ok_ms,
        "shards missing": report.degraded_ms,
        "failed": report.error_ms,
        "sent late by": report.late_ms,
    }
    write_table(
        ("ms", "calls", "mean", "p50", "p90", "p95", "p99", "p99.9", "max"),
        [
            (label, part.n, *(round(value, 2) for value in (
                part.mean, part.p50, part.p90, part.p95, part.p99, part.p999, part.max)))
            for label, part in parts.items()
        ],
    )  # fmt: skip
    write(
        f"{report.calls_per_s:,.1f} calls/s, {report.queries_per_s:,.1f} queries/s answered over "
        f"{report.duration_s:g} s"
    )
    for code, n_calls in sorted(report.errors.items()):
        write(f"{counted(n_calls, 'call')} failed: {code}")
