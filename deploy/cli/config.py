"""`shoal config show PROCESS`: the settings that a process would run with here."""

import importlib
from typing import Annotated

import typer

from deploy.cli import flags
from deploy.cli.output import write, write_json
from shoal.errors import InvalidArgumentError

_MODELS = {
    "router": ("router.config", "RouterConfig"),
    "shard_server": ("shard_server.config", "ShardConfig"),
    "encoder_service": ("encoder_service.config", "EncoderConfig"),
}

app = typer.Typer(
    help="Settings of the processes.",
    rich_markup_mode=None,
    callback=flags.help_without_command,
    invoke_without_command=True,
)


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def show(
    *,
    context: typer.Context,
    process: Annotated[str, typer.Argument(help="router, shard_server or encoder_service.")],
    as_json: flags.Json = False,
) -> None:
    """Show a process's settings: its file, the environment, and the flags given after its name."""
    from shoal.config import describe_config

    if process not in _MODELS:
        raise InvalidArgumentError(
            f"no process {process!r}; there are {', '.join(_MODELS)}", field="process"
        )
    module, model = _MODELS[process]
    values = describe_config(getattr(importlib.import_module(module), model), process, context.args)
    if as_json:
        write_json(values)
        return
    import yaml

    write(yaml.safe_dump(values, sort_keys=False).rstrip())
