"""The commands of a cluster on Ray: what its flags mean, and how its states are shown."""

import dataclasses
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deploy.access import local_credentials
from deploy.cli import flags
from deploy.cli.added_flags import with_flags
from deploy.cli.output import note, write, write_json, write_table
from deploy.cli.plan import parse_size
from deploy.state import ClusterState
from shoal.credentials import Credentials
from shoal.errors import InvalidArgumentError
from shoal.target import hosts_of

if TYPE_CHECKING:
    from deploy.reload import Reloaded


def _count(flag: str, what: str) -> Any:
    return Annotated[int | None, typer.Option(flag, min=1, help=f"On Ray: {what}. Default: 1.")]


def _share(flag: str, what: str, default: int) -> Any:
    said = f"On Ray: {what} reserves. Default: {default}."
    return Annotated[float | None, typer.Option(flag, min=0, help=said)]


def _text(flag: str, metavar: str, what: str) -> Any:
    return Annotated[str | None, typer.Option(flag, metavar=metavar, help=f"On Ray: {what}.")]


_FLAGS: dict[str, Any] = {
    "ray_address": _text(
        "--ray-address", "HOST:PORT", "the cluster. Default: RAY_ADDRESS, else this machine's"
    ),
    "encoders": _count("--encoders", "encoders"),
    "routers": _count("--routers", "routers"),
    "shard_cpus": _share("--shard-cpus", "CPUs that a shard's process", 1),
    "encoder_cpus": _share("--encoder-cpus", "CPUs that an encoder", 1),
    "router_cpus": _share("--router-cpus", "CPUs that a router", 1),
    "shard_gpus": _share("--shard-gpus", "GPUs, or a share of one, that a shard's process", 0),
    "encoder_gpus": _share("--encoder-gpus", "GPUs, or a share of one, that an encoder", 0),
    "gpu_memory": _text(
        "--gpu-memory", "SIZE", "memory of one GPU, 80GB, from which --shard-gpus is planned"
    ),
    "tls_ca": Annotated[
        Path | None,
        typer.Option("--tls-ca", help="On Ray: PEM file of who signed --tls-certificate."),
    ],
    "tls_server_name": _text(
        "--tls-server-name", "NAME", "a name in every node's certificate. Default: its address"
    ),
}


def with_ray_flags(command: Callable[..., None]) -> Callable[..., None]:
    """Adds the flags to a command, which gets those given as one argument, `on_ray`."""
    return with_flags(
        command, _FLAGS, argument="on_ray",
        gathered=lambda given: {name: value for name, value in given.items() if value is not None},
    )  # fmt: skip


def refuse_ray_flags(given: Mapping[str, Any]) -> None:
    """InvalidArgumentError where a flag of Ray's was given to a local cluster."""
    for name in given:
        flag = f"--{name.replace('_', '-')}"
        raise InvalidArgumentError(f"{flag} is for --on ray; leave it out, or add that")


def ray_up(values: Mapping[str, Any], start_timeout_s: float, *, as_json: bool) -> None:
    """Deploys; `values` are fields of `RayOptions` and the flags above, None where not given."""
    from deploy.ray.launch import up
    from deploy.ray.options import ray_options

    given = {name: value for name, value in values.items() if value is not None}
    ray_address = given.pop("ray_address", None)
    if "gpu_memory" in given:
        given["gpu_memory_bytes"] = parse_size(given.pop("gpu_memory"))
    begun_s = time.monotonic()

    def say(line: str) -> None:
        note(f"{time.monotonic() - begun_s:7.1f} s  {line}")

    state = up(ray_options(given), ray_address, start_timeout_s, say)
    if as_json:
        write_json(dataclasses.asdict(state))
        return
    write_table(("replica", "address"), [(p.name, p.address) for p in state.processes])
    write(f"ready: index {state.index!r} version {state.version} at {state.target}")
    if state.tls_certificate and (tls := local_credentials(state).tls):
        write(callers_hint(state.target, str(tls.ca), given.get("tls_server_name", ""),
                           tls.server_name))  # fmt: skip
    write(f"end it with: shoal down{flags.name_flag(state.name)}")


def callers_hint(target: str, ca: str, server_name: str, certified: str) -> str:
    """What callers must say over TLS to reach this target. Pure.

    One address is verified by itself; of several hosts no one name follows, so callers give one.

    Args:
        target: one router's address, or a list.
        ca: the file of whom to trust.
        server_name: the name that `up` was given; "" where none was.
        certified: a name that the certificate carries, "" where it can't be read.
    """
    name = server_name or (certified if len(hosts_of(target)) > 1 else "")
    named = f" --tls-server-name {name}" if name else ""
    return f"callers elsewhere say: --target {target} --tls-ca {ca}{named}"


def ray_reload(
    state: ClusterState, version: int | None, timeout_s: float, given: Credentials
) -> "Reloaded":
    """Moves all routers, and pins the version."""
    from deploy.ray.reload import reload_cluster

    return reload_cluster(state, version, timeout_s, given)


def ray_down(state: ClusterState) -> bool:
    """Ends it; returns whether it was running."""
    from deploy.ray.launch import down

    return down(state, note)
