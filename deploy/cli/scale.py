"""`shoal scale`: how many replicas of each role a cluster on Ray runs."""

import dataclasses
from typing import Annotated

import typer

from deploy.cli import flags
from deploy.cli.output import note, write_json, write_table
from deploy.state import ClusterState
from shoal.errors import UnsupportedError
from shoal.rpc.deadline import check_timeout


def scale(
    *,
    counts: Annotated[
        list[str],
        typer.Argument(
            metavar="ROLE=N...",
            help="encoder=4 shard=2 router=2; encoder=1..4 follows load between these.",
        ),
    ],
    name: flags.Name = flags.DEFAULT_NAME,
    may_grow: Annotated[
        bool,
        typer.Option("--may-grow", help="Ask for more than fits: Ray's autoscaler adds nodes."),
    ] = False,
    timeout_s: Annotated[
        float, typer.Option("--timeout-s", min=1, help="Seconds until all must serve.")
    ] = 600.0,
    as_json: flags.Json = False,
) -> None:
    """Change how many replicas a cluster on Ray runs; those that stay are not restarted.

    A shard's number counts the replicas of each shard.
    """
    from deploy.ray.counts import parse_counts

    check_timeout(timeout_s)
    wanted = parse_counts(counts)
    state = flags.running_cluster(name)
    _refuse_local(state)
    from deploy.ray.scale import scale as scale_cluster

    done = scale_cluster(state, wanted, timeout_s, note, may_grow=may_grow)
    if as_json:
        write_json({"name": name, "deployments": [dataclasses.asdict(part) for part in done]})
        return
    rows = [
        (part.name, part.before, part.now,
         f"{part.least} to {part.most}, by load" if part.least != part.most else "fixed")
        for part in done
    ]  # fmt: skip
    write_table(("deployment", "before", "now", "replicas"), rows)


def _refuse_local(state: ClusterState) -> None:
    if state.on != "ray":
        raise UnsupportedError(
            f"cluster {state.name!r} runs on this machine alone, and 'shoal scale' is for clusters "
            "on Ray (shoal up --on ray); 'shoal up --replicas N' starts this one with N"
        )
