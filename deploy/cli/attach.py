"""`shoal attach`: makes a cluster on Ray known here that another machine, or a config, started."""

import dataclasses
from typing import Annotated, Literal

import typer

from deploy.cli import flags
from deploy.cli.output import write, write_json


def attach(
    *,
    on: Annotated[Literal["ray"], typer.Option("--on", help="Where the cluster runs.")] = "ray",
    ray_address: Annotated[
        str | None,
        typer.Option(
            "--ray-address", metavar="HOST:PORT",
            help="The Ray cluster. Default: RAY_ADDRESS, else this machine's.",
        ),
    ] = None,
    name: flags.Name = flags.DEFAULT_NAME,
    as_json: flags.Json = False,
) -> None:  # fmt: skip
    """Find a cluster on Ray that another machine or 'serve deploy' started.

    Afterwards status, search, reload, scale and down work here as where it was started; 'down' ends
    it for everybody. The files of its certificate and tokens must be here at the same paths.
    """
    del on
    from deploy.ray.attach import attach as attach_cluster

    state = attach_cluster(name, ray_address)
    if as_json:
        write_json(dataclasses.asdict(state))
        return
    write(
        f"attached: index {state.index!r} version {state.version} at {state.target}, on Ray at "
        f"{state.ray_address}"
    )
    write(f"show it with: shoal status{flags.name_flag(state.name)}")
