"""`shoal index plan`: what an index will cost, before anyone builds it."""

import dataclasses
import re
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from deploy.cli import flags
from deploy.cli.output import write, write_json, write_table

if TYPE_CHECKING:
    from shard_server.building.plan import Plan

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12,
          "KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40}  # fmt: skip
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]I?)?B?", re.IGNORECASE)
_HEADERS = ("recipe", "on", "B/vector", "index GB", "vectors GB", "passages GB", "shards",
            "host GB", "GPU GB", "replicas", "n_probe", "train s", "fits")  # fmt: skip


def parse_size(text: str) -> int:
    """Bytes of `80GB`, `64GiB`, `512M` or a plain number."""
    match = _SIZE.fullmatch(text.strip())
    if match is None or not float(match[1]):
        raise typer.BadParameter(f"{text!r} is no size; write 80GB, 64GiB or a number of bytes")
    return int(float(match[1]) * _UNITS[(match[2] or "").upper()])


def plan(
    *,
    passages: Annotated[int, typer.Option("--passages", min=1, help="Passages to hold.")],
    dim: Annotated[int, typer.Option("--dim", min=1, max=65_536, help="Columns of a vector.")],
    recall: Annotated[float, typer.Option("--recall", help="Recall@10 wanted.")] = 0.95,
    memory: Annotated[
        str | None, typer.Option("--memory", metavar="SIZE", help="Memory of a machine: 64GB.")
    ] = None,
    gpu_memory: Annotated[
        str | None, typer.Option("--gpu-memory", metavar="SIZE", help="Memory of a GPU: 80GB.")
    ] = None,
    shards: Annotated[
        int | None,
        typer.Option("--shards", min=1, max=256, help="Default: the fewest that fit."),
    ] = None,
    metric: Annotated[Literal["inner_product", "l2"], typer.Option("--metric")] = "inner_product",
    passage_bytes: Annotated[
        int,
        typer.Option("--passage-bytes", min=0, help="A passage's id, text and metadata."),
    ] = 600,
    as_json: flags.Json = False,
) -> None:
    """Say what each recipe would cost in bytes, what fits, and what does not."""
    from shard_server.building.plan import Wish, make_plans

    wish = Wish(
        n_passages=passages,
        dim=dim,
        recall=recall,
        metric=metric,
        n_shards=shards,
        memory_bytes=None if memory is None else parse_size(memory),
        gpu_memory_bytes=None if gpu_memory is None else parse_size(gpu_memory),
        passage_bytes=passage_bytes,
    )
    plans = make_plans(wish)
    if as_json:
        write_json({**dataclasses.asdict(wish), "plans": [_described(plan) for plan in plans]})
        return
    write_table(_HEADERS, [_row(plan) for plan in plans])
    write()
    for plan_ in plans:
        for line in (*plan_.faults, *plan_.notes):
            write(f"{plan_.recipe} on {plan_.device}: {line}")
    write(
        "host and GPU: one shard's peak, a reload with two versions; train: two cores, roughly; "
        "n_probe: where to begin, `shoal index calibrate` measures it"
    )


def _described(plan: "Plan") -> dict[str, Any]:
    whole, shard = (
        {**dataclasses.asdict(cost), "index": cost.index, "resident": cost.resident}
        for cost in (plan.cost, plan.shard)
    )
    return {**dataclasses.asdict(plan), "cost": whole, "shard": shard, "fits": plan.fits}


def _row(plan: "Plan") -> tuple[object, ...]:
    return (
        plan.recipe,
        plan.device,
        round(plan.bytes_a_vector, 1),
        round(plan.cost.index / 1e9, 2),
        round(plan.cost.vectors / 1e9, 2),
        round(plan.cost.passages / 1e9, 2),
        plan.n_shards,
        round(plan.host_bytes / 1e9, 2),
        "-" if plan.gpu_bytes is None else f"{plan.gpu_bytes / 1e9:.2f}",
        "-" if plan.replicas is None else plan.replicas,
        plan.n_probe or "-",
        round(plan.training_s),
        "yes" if plan.fits else "NO",
    )
