"""Where a build's long stages run: `--on local | ray`, and the flags that go with it.

Rule: Ray is imported where it was asked for, and nowhere else.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from deploy.cli.output import note
from shoal.errors import ConfigError

if TYPE_CHECKING:
    from shard_server.building.executor import Executor

Place = Literal["local", "ray"]

On = Annotated[
    Place,
    typer.Option(
        "--on", help="Where to encode and to fill shards: here, or on the nodes of a Ray cluster, "
        "which must all see --index under its path.",
    ),
]  # fmt: skip
Encoders = Annotated[
    int | None,
    typer.Option(
        "--encoders",
        min=1,
        metavar="N",
        help="Encoders on Ray. Default: one a GPU, else one a node.",
    ),
]
RayAddress = Annotated[
    str | None,
    typer.Option(
        "--ray-address", metavar="HOST:PORT", help="The Ray cluster's GCS. Default: RAY_ADDRESS, "
        "else the cluster on this machine.",
    ),
]  # fmt: skip


@contextmanager
def executor(
    *,
    on: Place,
    encoders: int | None,
    ray_address: str | None,
    model: str,
    device: str,
    keep_float32: bool = False,
) -> "Iterator[Executor]":
    """What runs the stages of a build.

    Raises:
        ConfigError: flags that don't go together.
        UnavailableError: no Ray cluster is to be reached.
    """
    if on == "local":
        if encoders is not None or ray_address is not None:
            raise ConfigError(
                "--encoders and --ray-address are for --on ray; add it, or leave them"
            )
        from shard_server.building.executor import HERE

        yield HERE
        return
    if device not in {"auto", "cpu"}:
        raise ConfigError(
            f"--device {device}: with --on ray, Ray gives each encoder its GPU; say auto or cpu"
        )
    from deploy.ray.building.executor import on_ray

    with on_ray(
        model=model,
        device="cpu" if device == "cpu" else "auto",
        n_encoders=encoders,
        ray_address=ray_address,
        dtype="float32" if keep_float32 else "auto",
        note=note,
    ) as executor:
        yield executor
