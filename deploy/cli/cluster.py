"""`shoal up | reload | down`: a cluster on this machine, or on Ray (`on_ray`)."""

import asyncio
import dataclasses
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from deploy.cli import flags
from deploy.cli.credentials import completed, with_credentials
from deploy.cli.on_ray import (
    ray_down,
    ray_reload,
    ray_up,
    refuse_ray_flags,
    with_ray_flags,
)
from deploy.cli.output import counted, note, write, write_json, write_table
from deploy.cli.up_arguments import up_arguments
from deploy.plan import UpOptions
from deploy.state import read_state
from deploy.traces import Traces
from shoal.credentials import Credentials
from shoal.errors import InvalidArgumentError
from shoal.rpc.deadline import check_timeout


@with_ray_flags
def up(
    *,
    index: flags.IndexAt,
    cache_dir: flags.CacheDir = None,
    replicas: Annotated[
        int | None, typer.Option("--replicas", min=1, help="Processes a shard. Default: 1.")
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(
            "--port",
            min=0,
            max=65535,
            help="The router's port; 0 takes a free one. Default: "
            "50051; on Ray 0, and another one means one router a node.",
        ),
    ] = None,
    host: Annotated[
        str | None,
        typer.Option(
            "--host",
            help="Where the router listens, on Ray every process. Default: 127.0.0.1, on "
            "Ray each node's address.",
        ),
    ] = None,
    http_port: Annotated[
        int | None,
        typer.Option(
            "--http-port",
            min=0,
            max=65535,
            help="Serve the console and POST /retrieve on this port; 0 takes a free one.",
        ),
    ] = None,
    http_host: Annotated[
        str | None,
        typer.Option("--http-host", help="Where that port listens. Default: 127.0.0.1."),
    ] = None,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Serve plaintext where other machines reach it.")
    ] = False,
    tls_certificate: Annotated[
        Path | None,
        typer.Option("--tls-certificate", help="PEM file of the router's certificate and chain."),
    ] = None,
    tls_key: Annotated[
        Path | None, typer.Option("--tls-key", help="PEM file of the certificate's key.")
    ] = None,
    tls_client_ca: Annotated[
        Path | None,
        typer.Option("--tls-client-ca", help="PEM file of who signs callers' certificates."),
    ] = None,
    tokens: Annotated[
        Path | None,
        typer.Option("--tokens", help="YAML file of who may call what; see 'shoal token new'."),
    ] = None,
    traces_otlp: flags.TracesOtlp = None,
    trace_sample: flags.TraceSample = None,
    traces_ca: flags.TracesCa = None,
    device: Annotated[
        str | None, typer.Option("--device", help="auto, cpu or cuda:N, for shards and encoder.")
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", help="The encoder's model. Default: the index's own.")
    ] = None,
    live_recall_budget: Annotated[
        float | None,
        typer.Option(
            "--live-recall-budget",
            min=0,
            max=1,
            help="Share of one core a shard that goes to measuring the recall of live queries; 0 "
            "measures none. Default: 0.01.",
        ),
    ] = None,
    grace_s: Annotated[
        float, typer.Option("--grace-s", min=0, help="Seconds that calls get to end at the stop.")
    ] = 10.0,
    start_timeout_s: Annotated[
        float, typer.Option("--start-timeout-s", min=1, help="Seconds that starting may take.")
    ] = 600.0,
    detach: Annotated[
        bool, typer.Option("--detach", help="Return when it is ready, and leave it running.")
    ] = False,
    name: flags.Name = flags.DEFAULT_NAME,
    as_json: flags.Json = False,
    on: Annotated[
        Literal["local", "ray"],
        typer.Option("--on", help="This machine, or a running Ray cluster, which keeps it up."),
    ] = "local",
    on_ray: Mapping[str, Any],
) -> None:
    """Start an encoder, the shards and a router, and keep them running.

    Ctrl-C or SIGTERM ends them in order, which is a success: exit code 0. On Ray the command ends
    when they are ready, and given again it rolls what has changed.
    """
    from deploy.index_place import IndexPlace
    from deploy.local import index_facts, run_cluster

    traces = Traces(otlp=traces_otlp or "", sample=trace_sample, ca=_absolute(traces_ca))
    place = IndexPlace.of(index, cache_dir)
    place.refuse_credentials()
    if on == "ray":
        if http_port is not None or http_host is not None:
            raise InvalidArgumentError(
                "--http-port and --http-host are for a cluster on this machine; on Ray, set "
                "SHOAL_ROUTER__HTTP_PORT where the nodes are started"
            )
        ray_up(
            {
                **on_ray, "name": name, "replicas": replicas, "port": port or 0, "host": host,
                "device": device,
                "index": place.url or str(place.folder), "insecure": insecure, "model": model,
                "cache_dir": cache_dir.absolute() if cache_dir else None, "grace_s": grace_s,
                "tls_certificate": _absolute(tls_certificate), "tls_key": _absolute(tls_key),
                "tls_client_ca": _absolute(tls_client_ca), "tokens": _absolute(tokens),
                "live_recall_budget": live_recall_budget,
                "traces_otlp": traces_otlp, "trace_sample": trace_sample, "traces_ca": traces.ca,
            },
            start_timeout_s,
            as_json=as_json,
        )  # fmt: skip
        return
    refuse_ray_flags(on_ray)
    options = UpOptions(
        name=name,
        index_dir=place.folder,
        index_url=place.url,
        replicas=replicas or 1,
        host=host or "127.0.0.1",
        port=flags.DEFAULT_PORT if port is None else port,
        insecure=insecure,
        device=device,
        model=model,
        grace_s=grace_s,
        start_timeout_s=start_timeout_s,
        tls_certificate=_absolute(tls_certificate),
        tls_key=_absolute(tls_key),
        tls_client_ca=_absolute(tls_client_ca),
        tokens=_absolute(tokens),
        live_recall_budget=live_recall_budget,
        traces=traces,
        http_port=http_port,
        http_host=http_host or "127.0.0.1",
    )
    traces.check()
    facts = index_facts(place)
    if detach:
        _up_detached(options, as_json)
        return
    begun_s = time.monotonic()

    def say(line: str) -> None:
        note(f"{time.monotonic() - begun_s:7.1f} s  {line}")

    asyncio.run(run_cluster(options, facts, say))


def _absolute(path: Path | None) -> Path | None:
    # not resolved: a link that is turned to a new certificate must be seen
    return path.absolute() if path else None


def _up_detached(options: UpOptions, as_json: bool) -> None:
    from deploy.detached import start_detached

    command = ["-m", "deploy.cli.main", *up_arguments(options)]
    state = start_detached(options.name, command, options.start_timeout_s)
    if as_json:
        write_json(dataclasses.asdict(state))
        return
    write_table(
        ("process", "pid", "address"), [(p.name, p.pid, p.address) for p in state.processes]
    )
    write(f"ready: index {state.index!r} version {state.version} at {state.target}")
    if state.http:
        write(f"console: {state.http}/")
    write(f"end it with: shoal down{flags.name_flag(state.name)}")


@with_credentials
def reload(
    *,
    name: flags.Name = flags.DEFAULT_NAME,
    version: Annotated[
        int | None, typer.Option("--version", min=1, help="Default: the index's live version.")
    ] = None,
    timeout_s: Annotated[
        float, typer.Option("--timeout-s", min=1, help="Seconds that loading may take.")
    ] = 600.0,
    as_json: flags.Json = False,
    given: Credentials,
) -> None:
    """Move the running cluster to the index's live version; no query fails meanwhile."""
    from deploy.reload import reload_cluster

    check_timeout(timeout_s)
    state = flags.running_cluster(name)
    move = ray_reload if state.on == "ray" else reload_cluster
    done = move(state, version, timeout_s, completed(state, given))
    if as_json:
        write_json(dataclasses.asdict(done))
    elif done.old == done.version:
        write(f"index {done.index!r} is at version {done.version} already")
    else:
        write(
            f"index {done.index!r} moved from version {done.old} to {done.version} in "
            f"{done.seconds:.1f} s: {counted(done.n_passages, 'passage')}"
        )


def down(
    *,
    name: flags.Name = flags.DEFAULT_NAME,
    timeout_s: Annotated[
        float, typer.Option("--timeout-s", min=0, help="Seconds to drain before it is killed.")
    ] = 60.0,
    as_json: flags.Json = False,
) -> None:
    """End the cluster; nothing running is no error."""
    from deploy.detached import end_cluster

    known = read_state(name)
    if known is not None and known.on == "ray":
        was_running = ray_down(known)
    else:
        was_running = end_cluster(name, timeout_s) is not None
    if as_json:
        write_json({"name": name, "was_running": was_running})
    elif not was_running:
        write(f"no cluster {name!r} was running")
    else:
        write(f"cluster {name!r} ended")
