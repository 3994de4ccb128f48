"""`shoal bench`: load on a running cluster or another system, and what it did; `bench compare`."""

import asyncio
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from deploy.cli import bench_compare, flags
from deploy.cli.bench_parse import goal_asked, stages_asked
from deploy.cli.credentials import credentials_for, with_credentials
from deploy.cli.output import note, write_json
from shoal.credentials import Credentials
from shoal.errors import InvalidArgumentError, StorageError, UnavailableError, VerdictError
from shoal.rpc.deadline import check_timeout
from shoal.target import check_target

if TYPE_CHECKING:  # needs hdrhistogram, which the bare install hasn't
    from shoal.bench.max_rate import Goal
    from shoal.bench.plan import LoadPlan
    from shoal.bench.record import RunRecord
    from shoal.bench.schedule import Stage
    from shoal.requests import SearchOptions

app = typer.Typer(
    help="Put load on a running cluster: --rate R (open loop) or --clients N (closed loop).",
    rich_markup_mode=None,
    invoke_without_command=True,
)

app.command("compare")(bench_compare.compare)

_FAISS = "deploy.bench.in_process:open_target"


@app.callback()
@with_credentials
def bench(
    *,
    context: typer.Context,
    rate: Annotated[
        str | None,
        typer.Option("--rate", metavar="R | R,R,... | R..R", help="Calls a second, whatever the "
                     "answers do: one rate, steps, or a ramp."),
    ] = None,
    clients: Annotated[
        str | None,
        typer.Option("--clients", metavar="N | N,N,...",
                     help="Clients, each waiting for its answer: one number, or steps."),
    ] = None,
    arrivals: Annotated[
        Literal["constant", "poisson"],
        typer.Option("--arrivals", help="How the calls of --rate come."),
    ] = "constant",
    duration_s: Annotated[
        float, typer.Option("--duration", help="Seconds measured, of each step.")
    ] = 10.0,
    warmup_s: Annotated[
        float, typer.Option("--warmup", help="Seconds before each step, left out.")
    ] = 2.0,
    find_max: Annotated[
        bool, typer.Option("--find-max", help="Search for the highest rate that keeps --p99 and "
                           "--recall, by bisection.")
    ] = False,
    p99: Annotated[
        str | None, typer.Option("--p99", metavar="MS", help="With --find-max: 50ms, or 0.05s.")
    ] = None,
    recall: Annotated[
        float | None, typer.Option("--recall", help="With --find-max: recall@k at least, 0 to 1.")
    ] = None,
    queries: Annotated[
        Path | None, typer.Option("--queries", help="Texts: JSONL or TSV, plain or .gz.")
    ] = None,
    vectors: Annotated[
        Path | None, typer.Option("--vectors", help="Query vectors: .npy of shape (n, dim).")
    ] = None,
    sample: Annotated[
        str | None,
        typer.Option("--sample", metavar="CORPUS|DIR", help="Draw the queries: sentences and "
                     "titles of a corpus or of an index's folder, or its stored vectors."),
    ] = None,
    mode: Annotated[
        Literal["text", "vector"] | None,
        typer.Option("--mode", help="What to make up where no queries are given, or to draw of an "
                     "index. Default: text where it has an encoder."),
    ] = None,
    n_queries: Annotated[
        int | None, typer.Option("--n-queries", min=1, help="Queries drawn or made up. Default: "
                                 "8,192 texts, more than an encoder's cache keeps, or 2,048 "
                                 "vectors.")
    ] = None,
    batch: Annotated[int, typer.Option("--batch", min=1, max=1024, help="Queries a call.")] = 1,
    workers: Annotated[
        int | None, typer.Option("--workers", min=1, help="Processes that send. Default: one for "
                                 "every four cores.")
    ] = None,
    connections: Annotated[
        int, typer.Option("--connections", min=1, help="Channels of each worker.")
    ] = 4,
    recall_sample: Annotated[
        int, typer.Option("--recall-sample", min=0, help="Calls to search exactly as well, as many "
                          "as 5 s allow, before the load.")
    ] = 200,
    truth: Annotated[
        str | None,
        typer.Option("--truth", metavar="HOST:PORT", help="A router of the same passages that "
                     "searches exactly, for a target that can't.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Of arrivals, samples, made-up queries.")] = 0,
    k: Annotated[int, typer.Option("-k", help="Hits a query, 1 to 1,000.")] = 10,
    ids_only: Annotated[bool, typer.Option("--ids-only", help="Ask for no text.")] = False,
    target: Annotated[
        str | None,
        typer.Option("--target", metavar="HOST:PORT|URL|DIR", help="The router; or the URL of a "
                     "POST /retrieve server; or with --adapter faiss an index's folder. Default: "
                     "the local cluster's, else 127.0.0.1:50051."),
    ] = None,
    adapter: Annotated[
        str, typer.Option("--adapter", metavar="grpc|http|faiss|MODULE:FUNCTION",
                          help="What speaks to the target. Default: by its form.")
    ] = "",
    html: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="Write a report with plots.")
    ] = None,
    self_check: Annotated[
        bool, typer.Option("--self-check", help="Prove that a stopped server can't look fast "
                           "(15 s); needs no cluster.")
    ] = False,
    index: flags.IndexName = "",
    n_probe: flags.NProbe = None,
    oversample: flags.Oversample = None,
    exact: flags.Exact = False,
    target_recall: flags.TargetRecall = None,
    timeout_s: flags.Timeout = 10.0,
    name: flags.GivenName = None,
    as_json: flags.Json = False,
    given: Credentials,
) -> None:  # fmt: skip
    """Put load on a running cluster: --rate R (open loop) or --clients N (closed loop)."""
    if context.invoked_subcommand is not None:
        return
    if self_check:
        _self_check(as_json=as_json)
        return
    from deploy.bench.prepare import QuerySource, prepared
    from shoal.bench.plan import LoadPlan

    check_timeout(timeout_s)
    stages = stages_asked(rate, clients, arrivals, warmup_s, duration_s, find_max=find_max)
    goal = goal_asked(p99, recall, find_max=find_max)
    if html is not None and not html.absolute().parent.is_dir():
        raise StorageError(f"{html}: there is no such folder to write the report into")
    source = QuerySource(queries=queries, vectors=vectors, sample=sample, mode=mode,
                         n_queries=n_queries, seed=seed)  # fmt: skip
    options: SearchOptions = {
        "k": k,
        "index": index,
        "n_probe": n_probe,
        "oversample": oversample,
        "exact": exact or None,
        "target_recall": target_recall,
        "fields": () if ids_only else None,
    }
    address, known = _address(target, adapter, given, name)
    with prepared(source, address, adapter, known, index) as asked:
        plan = LoadPlan(
            target=address,
            adapter=_FAISS if adapter == "faiss" else adapter,
            credentials=known,
            batch=batch,
            workers=workers or max(1, (os.cpu_count() or 1) // 4),
            connections=connections,
            timeout_s=timeout_s,
            seed=seed,
            recall_sample=recall_sample,
            truth_target=check_target(truth, "--truth") if truth else "",
            texts=asked.texts,
            vectors_file=asked.vectors_file,
            options=options,
            clients=1,
        ).with_stage(stages[0])
        record = _measure(plan, stages, goal, asked.source)
    _write(record, html, as_json=as_json)


def _self_check(*, as_json: bool) -> None:
    from dataclasses import asdict

    from deploy.cli.bench_output import write_findings
    from shoal.bench.self_check import self_check

    note("a server of known behaviour is started, stopped for 6 s and measured: 15 s")
    findings = asyncio.run(self_check())
    if as_json:
        write_json([{**asdict(finding), "holds": finding.holds} for finding in findings])
    else:
        write_findings(findings)
    wrong = [finding.name for finding in findings if not finding.holds]
    if wrong:
        raise VerdictError("the generator doesn't show what the server did: " + ", ".join(wrong))


def _address(
    target: str | None, adapter: str, given: Credentials, name: str | None
) -> tuple[str, Credentials]:
    """The target, and what to show it; a router is waited for, others answer or don't."""
    from shoal.bench.target import adapter_of
    from shoal.client import Client

    if adapter not in {"", "grpc"} or (target and adapter_of(target) != "grpc"):
        if target is None:
            raise InvalidArgumentError(f"--adapter {adapter} needs --target")
        return target, given
    address = flags.find_target(target, name)
    known = credentials_for(address, given, name)
    with Client(address, token=known.token, tls=known.tls) as client:
        client.wait_ready(timeout_s=2.0)
    return address, known


def _measure(
    plan: "LoadPlan", stages: "list[Stage]", goal: "Goal | None", source: str
) -> "RunRecord":
    from shoal.bench.environment import describe_run
    from shoal.bench.live import watching
    from shoal.bench.record import RunRecord
    from shoal.bench.session import find_max, run_stages

    circumstances = describe_run(sys.argv[1:], plan.seed)
    with watching(note, is_terminal=sys.stderr.isatty()) as watcher:
        if goal is not None:
            outcome = asyncio.run(find_max(plan, stages[0], goal, watcher))
        else:
            outcome = asyncio.run(run_stages(plan, stages, watcher))
    return RunRecord(
        target=plan.target,
        adapter=plan.adapter,
        queries=source,
        served=outcome.served,
        reports=outcome.reports,
        circumstances=circumstances,
        notes=outcome.notes,
        max_rate=outcome.max_rate,
    )


def _write(record: "RunRecord", html: Path | None, *, as_json: bool) -> None:
    from deploy.cli.bench_output import write_record

    if as_json:
        write_json(record.to_dict())
    else:
        write_record(record)
    if html is not None:
        from shoal.bench.html.page import write_page

        write_page(html, record)
        note(f"report: {html}")
    errors = sorted({code for report in record.reports for code in report.errors})
    if errors and not any(r.ok_ms.n + r.degraded_ms.n for r in record.reports):
        raise UnavailableError("every call failed: " + ", ".join(errors))
    if record.fault:
        raise VerdictError(record.fault)
    if record.max_rate is not None and record.max_rate.calls_per_s is None:
        raise VerdictError(record.max_rate.why)
