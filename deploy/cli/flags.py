"""Flags that several commands share, spelled once."""

import re
from pathlib import Path
from typing import Annotated

import typer

from deploy.state import ClusterState, read_state
from shoal.errors import ConfigError, UnavailableError
from shoal.target import check_target

DEFAULT_NAME = "default"
DEFAULT_PORT = 50051
_URL_AS_PATH = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]+:/")

Restart = Annotated[
    bool,
    typer.Option("--restart", help="Throw away what an interrupted run left, and begin anew."),
]
Json = Annotated[bool, typer.Option("--json", help="Write JSON, for programs.")]
Name = Annotated[str, typer.Option("--name", help="The local cluster's name.")]
GivenName = Annotated[
    str | None, typer.Option("--name", help=f"The local cluster's name. Default: {DEFAULT_NAME}.")
]
Target = Annotated[
    str | None,
    typer.Option(
        "--target", metavar="HOST:PORT",
        help="The router. Default: the local cluster's, else 127.0.0.1:50051.",
    ),
]  # fmt: skip


def refuse_url(index: Path) -> Path:
    """A folder as it is; ConfigError for a URL, which `Path` would make a folder of."""
    if _URL_AS_PATH.match(str(index)):
        raise ConfigError(
            "--index is a URL, and this command works on a folder; copy it first with: "
            "shoal index pull URL --index DIR"
        )
    return index


IndexDir = Annotated[
    Path,
    typer.Option("--index", metavar="DIR", help="The index's folder.", callback=refuse_url),
]
IndexAt = Annotated[
    str,
    typer.Option(
        "--index", metavar="DIR|URL", help="The index's folder, or its URL: s3://BUCKET/PATH."
    ),
]
CacheDir = Annotated[
    Path | None,
    typer.Option(
        "--cache-dir", metavar="DIR", help="Where a URL's files are copied to. Default: "
        "$XDG_CACHE_HOME/shoal/indexes, else ~/.cache/shoal/indexes.",
    ),
]  # fmt: skip
IndexName = Annotated[
    str,
    typer.Option("--index", metavar="NAME", help="The index's name; empty where one is served."),
]
NProbe = Annotated[
    int | None, typer.Option("--n-probe", help="Inverted lists searched a shard, 1 to 2,048.")
]
Oversample = Annotated[
    float | None,
    typer.Option("--oversample", help="Candidates rescored are max(100, k x this); 0 for none."),
]
TargetRecall = Annotated[
    float | None,
    typer.Option(
        "--target-recall",
        help="Recall wanted against exact search, in place of --n-probe and --oversample; the "
        "index must be calibrated.",
    ),
]
Exact = Annotated[bool, typer.Option("--exact", help="Search every stored vector.")]
Timeout = Annotated[
    float, typer.Option("--timeout-s", help="Seconds that a call may take, above 0.")
]

TracesOtlp = Annotated[
    str | None,
    typer.Option(
        "--traces-otlp", metavar="HOST:PORT",
        help="Send traces to an OpenTelemetry collector (OTLP over gRPC). Default: make none.",
    ),
]  # fmt: skip
TraceSample = Annotated[
    float | None,
    typer.Option(
        "--trace-sample", min=0, max=1,
        help="Share of the searches that are traced where their caller doesn't say. "
        "Default: 0.01.",
    ),
]  # fmt: skip
TracesCa = Annotated[
    Path | None,
    typer.Option(
        "--traces-ca", help="PEM file of who signs the collector's certificate; asks for TLS."
    ),
]


def help_without_command(context: typer.Context) -> None:
    """A group's own callback: shows its help where no subcommand was given."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit


def name_flag(name: str) -> str:
    """What a command line that is proposed must say about the cluster's name."""
    return "" if name == DEFAULT_NAME else f" --name {name}"


def running_cluster(name: str) -> ClusterState:
    """The running local cluster of that name; UnavailableError where there is none."""
    state = read_state(name)
    if state is None or not state.alive:
        raise UnavailableError(
            f"no cluster {name!r} is running; start one with "
            f"'shoal up --index DIR{name_flag(name)}', or find one on Ray that was started "
            f"elsewhere with 'shoal attach{name_flag(name)}'"
        )
    return state


def find_target(target: str | None, name: str | None) -> str:
    """The target given, else the named local cluster's; without either a default.

    The default is the local cluster of the default name where it runs, else the default address.

    Raises:
        InvalidArgumentError: the target given is no address.
        UnavailableError: no cluster of the name that was given is running.
    """
    if target is not None:
        return check_target(target, "--target")
    if name is not None:
        named = running_cluster(name)
        if not named.target:
            raise UnavailableError(f"cluster {name!r} is {named.phase}; it has no address yet")
        return named.target
    state = read_state(DEFAULT_NAME)
    if state is not None and state.alive and state.target:
        return state.target
    return f"127.0.0.1:{DEFAULT_PORT}"
