"""Encoders follow a load step on a real Ray cluster of this machine: `make bench-scaling`.

An open loop offers 20 queries a second, then 110, then 20 again. An encoder of this benchmark does
50 a second (`bench.slow_encoder` waits in place of computing, so that three of them fit on two
cores); so the step asks for three. Everything else is real: Ray Serve, its autoscaler with our
policy, supervisors, leases, a router, two shards.

Until the second encoder serves, more is asked than can be answered. With its usual bound of 0.5 s
the router would refuse what is too much, which is right for people who wait; here its bound is 20 s
and callers have 60 s, so that what can't be answered yet waits, and no query may fail.
"""

import argparse
import asyncio
import itertools
import json
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from bench.ray_node import ray_head
from bench.scaling_seconds import Second, seconds_of
from bench.slow_encoder import CAPACITY_PER_S, Offline
from deploy.index_place import IndexPlace
from deploy.local import index_facts
from deploy.ray.application import app_config, apply
from deploy.ray.connection import connected, serve_client, serve_statuses
from deploy.ray.counts import entry
from deploy.ray.members import await_serving
from deploy.ray.options import ray_options
from deploy.ray.progress import n_running
from deploy.ray.scaling import Bounds
from shard_server.building.build import BuildOptions, build_index
from shard_server.building.passage import Passage
from shoal.bench.drive import OK, Call, Reply, Send, open_loop
from shoal.client import AsyncClient
from shoal.errors import ShoalError

NAME = "bench-scaling"
N_PASSAGES = 2_000
TIMEOUT_S = 60.0
HOLD_S = 30.0
"""In place of the policy's 120 s, so that the way back fits into minutes."""
ENVIRONMENT = {"SHOAL_ROUTER__MAX_WAIT_S": "20", "SHOAL_ROUTER__MAX_BATCH_TEXTS": "16"}
_START_S = 90.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """So many queries a second for so long."""

    rate: float
    seconds: float


def main() -> None:
    """Starts Ray and the cluster, offers the load, prints and draws."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--low", type=float, default=20.0, help="queries a second before and after")
    parser.add_argument("--high", type=float, default=110.0, help="queries a second of the step")
    parser.add_argument("--png", type=Path, help="draw the run into this file")
    parser.add_argument("--json", type=Path, help="write its seconds into this file")
    arguments = parser.parse_args()
    phases = [
        Phase(rate=arguments.low, seconds=20),
        Phase(rate=arguments.high, seconds=60),
        Phase(rate=arguments.low, seconds=80),
    ]
    with tempfile.TemporaryDirectory(
        prefix="shoal-", dir="/tmp"
    ) as folder:  # short, as sockets' paths must be
        index_dir = Path(folder) / "index"
        passages = (
            Passage(id=f"p{i}", title="", text=f"passage {i}", where="made-up")
            for i in range(N_PASSAGES)
        )
        build_index(index_dir, passages, Offline(), BuildOptions(name="scaling", n_shards=2))
        with ray_head(Path(folder), **ENVIRONMENT) as address, connected(address):
            seconds = _run(index_dir, phases)
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(second) for second in seconds], indent=1))
    if arguments.png:
        from bench.scaling_drawn import draw  # noqa: PLC0415 -- matplotlib is an extra

        draw(arguments.png, seconds)
    print(told(seconds, phases))


def _run(index_dir: Path, phases: list[Phase]) -> list[Second]:
    options = ray_options({"name": NAME, "index": str(index_dir)})
    facts = index_facts(IndexPlace.of(str(index_dir), None))
    config = app_config(options, {"shard-0": 1, "shard-1": 1, "encoder": 1, "router": 1}, {})
    follows = entry("encoder", Bounds(least=1, most=3), hold_s=HOLD_S)
    config["import_path"] = "bench.scaling_app:build"
    config["deployments"] = [
        follows if told["name"] == "encoder" else told for told in config["deployments"]
    ]
    client = serve_client()
    apply(client, config)
    target = await_serving(options, facts, time.monotonic() + _START_S).target
    try:
        return asyncio.run(_watched(target, phases))
    finally:
        client.delete_apps([NAME], blocking=True)


async def _watched(target: str, phases: list[Phase]) -> list[Second]:
    """Offers the phases one after the other, and counts encoders meanwhile."""
    counts: dict[int, int] = {}
    calls: list[Call] = []
    # each text once: encoders remember what they encoded
    texts = (f"question {i}" for i in itertools.count())
    faults: set[str] = set()
    async with AsyncClient(target) as client:

        async def send(_: int) -> Reply:
            try:
                answer = await client.search(next(texts), k=3, timeout_s=TIMEOUT_S)
            except ShoalError as failure:
                faults.add(f"{failure.code.name}: {failure.message}")
                return Reply(code=failure.code.name)
            return Reply(code=OK, degraded=answer.coverage < 1.0)

        await _until_answered(send, faults)
        begun_s = time.perf_counter()
        counting = asyncio.ensure_future(_count(counts, begun_s))
        async with asyncio.TaskGroup() as group:
            for phase in phases:
                # the next phase begins on time, whether or not this one's calls are answered
                group.create_task(_offer(send, phase, begun_s, calls))
                await asyncio.sleep(phase.seconds)
        counting.cancel()
    for fault in sorted(faults):
        print(f"failed: {fault}")
    return seconds_of(calls, counts)


async def _until_answered(send: Send, faults: set[str]) -> None:
    """Returns with the first whole answer; what failed before it is told, and not counted."""
    for n_failed in range(100):
        reply = await send(n_failed)
        if reply.code == OK and not reply.degraded:
            if n_failed:
                print(f"{n_failed} calls before the load failed: {sorted(faults)}")
            faults.clear()
            return
        await asyncio.sleep(0.2)
    raise SystemExit(f"no answer: {sorted(faults)}")


async def _offer(send: Send, phase: Phase, begun_s: float, calls: list[Call]) -> None:
    late_s = time.perf_counter() - begun_s
    made = await open_loop(send, rate=phase.rate, total_s=phase.seconds)
    calls += [
        Call(due_s=c.due_s + late_s, sent_s=c.sent_s + late_s, done_s=c.done_s + late_s,
             reply=c.reply)
        for c in made
    ]  # fmt: skip


async def _count(counts: dict[int, int], begun_s: float) -> None:
    while True:
        states = (await asyncio.to_thread(serve_statuses))[NAME].deployments["encoder"]
        counts[int(time.perf_counter() - begun_s)] = n_running(states.replica_states)
        await asyncio.sleep(0.5)


def told(seconds: list[Second], phases: list[Phase]) -> str:
    """The run as a table: a line for each phase, and one for each change of the encoders."""
    n_calls, n_failed = sum(s.offered for s in seconds), sum(s.failed for s in seconds)
    lines = [
        f"an encoder does {CAPACITY_PER_S:g} texts/s; {n_calls:,} queries, {n_failed} failed",
        "",
        "| s | queries/s | encoders at its end | p50 ms | p99 ms, worst second | failed |",
        "|--:|--:|--:|--:|--:|--:|",
    ]
    begun = 0
    for phase in phases:
        part = seconds[begun : begun + int(phase.seconds)]
        p50 = float(np.median([s.p50_ms for s in part]))
        lines.append(
            f"| {begun} | {phase.rate:g} | {part[-1].encoders} | {p50:,.0f} "
            f"| {max(s.p99_ms for s in part):,.0f} | {sum(s.failed for s in part)} |"
        )
        begun += int(phase.seconds)
    lines.append("")
    for before, now in itertools.pairwise(seconds):
        if before.encoders != now.encoders:
            lines.append(f"{now.at_s} s: {before.encoders} -> {now.encoders} encoders")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
