"""The `shoal` command: what its subcommands are, and how every failure ends.

Rule: a failure is one line on stderr, `shoal: error: ...`, and a documented exit code; never a
traceback. Commands import what they need when they run, so that the bare install can search.
"""

import os
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from deploy.cli import (
    attach,
    bench,
    cluster,
    config,
    doctor,
    evaluate,
    flags,
    index,
    mine,
    scale,
    search,
    status,
    token,
    train,
)
from shoal import __version__
from shoal.errors import ShoalError
from shoal.garbage import collect_seldom

USAGE = 64
INTERNAL = 70
INTERRUPTED = 130
CONFIG = 78

_EPILOG = (
    "Exit codes (sysexits.h): 0 done; 1 a measurement says no; 64 wrong usage or request; "
    "65 bad data; 66 no such index; 69 nothing answers; 70 a bug; 74 disk or port; 75 try later, "
    "or somebody else is at work; 77 not permitted; 78 configuration, or an index that can't be "
    "used; 130 interrupted."
)

_EXTRAS = {
    "encoder": ("encoder_service", "torch", "transformers", "sentence_transformers", "safetensors",
                "onnx", "onnxruntime", "onnxscript"),
    "shard": ("shard_server", "faiss", "pyarrow"),
    "eval": ("ir_measures", "rich", "bm25s", "sklearn"),
    "train": ("accelerate",),
    "ray": ("ray",),
    "bench": ("hdrh", "aiohttp"),
    "remote": ("fsspec", "s3fs"),
    "router": ("router", "pydantic", "yaml", "prometheus_client", "grpc_reflection"),
}  # fmt: skip

# typer carries its own copy of click since 0.2x; the base class is the same in either
_UsageError = typer.BadParameter.__mro__[2]

app = typer.Typer(
    name="shoal",
    help="A sharded search cluster for passages: build an index, serve it, ask it, measure it.",
    epilog=_EPILOG,
    rich_markup_mode=None,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(search.search)
app.command()(cluster.up)
app.command()(status.status)
app.command()(scale.scale)
app.command()(cluster.reload)
app.command()(cluster.down)
app.command()(attach.attach)
app.command("eval")(evaluate.evaluate)
app.command()(train.train)
app.command()(mine.mine)
app.command()(doctor.doctor)
app.add_typer(bench.app, name="bench")
app.add_typer(index.app, name="index")
app.add_typer(config.app, name="config")
app.add_typer(token.app, name="token")


@app.callback(invoke_without_command=True)
def shoal(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Show the release and end.")] = False,
) -> None:
    """A sharded search cluster for passages."""
    if version:
        typer.echo(f"shoal {__version__}")
        raise typer.Exit
    flags.help_without_command(context)


def run(arguments: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code."""
    try:
        code = app(args=arguments, prog_name="shoal", standalone_mode=False)
        sys.stdout.flush()
        if code == INTERRUPTED:  # typer makes no more of Ctrl-C
            sys.stderr.write("shoal: error: interrupted\n")
    except BrokenPipeError:  # `shoal search ... | head` has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except (Exception, KeyboardInterrupt) as failure:
        message, code = explain(failure)
        if code == INTERNAL and os.environ.get("SHOAL_TRACEBACK"):
            raise
        sys.stderr.write(f"shoal: error: {' '.join(message.split())}\n")
    return code if isinstance(code, int) else 0


def explain(failure: BaseException) -> tuple[str, int]:
    """What to tell about a failure, in one line, and the exit code."""
    match failure:
        case ShoalError(request_id=request_id) if request_id:
            return f"{failure.message} (request {request_id})", failure.exit_code
        case ShoalError():
            return failure.message, failure.exit_code
        case KeyboardInterrupt() | typer.Abort():
            return "interrupted", INTERRUPTED
        case ModuleNotFoundError():
            return _missing(failure), CONFIG
        case _ if isinstance(failure, _UsageError):
            message = failure.format_message()  # type: ignore[attr-defined]
            return f"{message.rstrip('.')}; see --help", USAGE
        case _:
            what = f"{type(failure).__name__}: {failure}"
            return f"a bug: {what}; SHOAL_TRACEBACK=1 shows where", INTERNAL


def main() -> None:
    """The entry point."""
    collect_seldom()
    sys.exit(run())


def _missing(failure: ModuleNotFoundError) -> str:
    package = (failure.name or "").partition(".")[0]
    for extra, packages in _EXTRAS.items():
        if package in packages:
            return (
                f"this command needs {package}, which is not installed: "
                f"pip install 'shoal[{extra}]'"
            )
    return f"the installation lacks the module {failure.name}"


if __name__ == "__main__":
    main()
