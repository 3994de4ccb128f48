"""`python -m bench.serving.tuning`: which thread settings serve a `/retrieve` server best.

The comparison's second `/retrieve` server has one thread a request and a request a core; whether
another setting is better on a machine, this tells: text, a closed loop, all settings in turn.
"""

import argparse
import asyncio
import os
import time
from contextlib import ExitStack
from dataclasses import replace

from bench.serving.contestants import plan_for, retrieve_server
from bench.serving.ground import prepare
from bench.serving.lane import Lane
from bench.serving.result import figures_of
from bench.serving.tables import ms, p99, rate, table
from shoal.bench.report import LoadReport
from shoal.bench.schedule import Stage
from shoal.errors import ShoalError

_WITHIN_S = 600.0


def main() -> None:
    """Prints a row for each pair of settings."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--corpus")
    parser.add_argument("--clients", default="1,8,64")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=3.0)
    given = parser.parse_args()
    clients = [int(part) for part in given.clients.split(",")]
    stages = [Stage(clients=n, warmup_s=1.0, duration_s=given.seconds) for n in clients]
    ground = prepare(given.corpus, None, 1)
    n_cores = os.cpu_count() or 1
    with ExitStack() as stack:
        lanes = {}
        for threads, at_once in ((0, 0), (0, 1), (1, 0), (1, n_cores), (1, 2 * n_cores)):
            settings = replace(ground.retrieve, threads=threads, at_once=at_once)
            environment = {"OMP_WAIT_POLICY": "PASSIVE"} if threads == 1 else {}
            url = stack.enter_context(retrieve_server(settings, environment))
            lanes[threads, at_once] = Lane(plan_for(url, "text", ground), {})
        print(asyncio.run(_measure(lanes, stages, given.rounds)))


async def _measure(lanes: dict[tuple[int, int], Lane], stages: list[Stage], n_rounds: int) -> str:
    until_s = time.monotonic() + _WITHIN_S
    reports: dict[tuple[tuple[int, int], Stage], list[LoadReport]] = {}
    try:
        for _ in range(n_rounds):
            for stage in stages:
                for key, lane in lanes.items():
                    try:
                        report = await lane.run(stage, until_s)
                    except ShoalError as failure:
                        print(f"{key}, {stage.label}: {failure.message}")
                    else:
                        reports.setdefault((key, stage), []).append(report)
    finally:
        for lane in lanes.values():
            await lane.close()
    rows = []
    for threads, at_once in lanes:
        found = [figures_of(reports.get(((threads, at_once), stage), [])) for stage in stages]
        rows.append([
            str(threads or "all"), str(at_once or 40),
            *(f"{rate(one.queries_per_s)}/s, {ms(one.p50_ms)} / {p99(one)}" for one in found),
        ])  # fmt: skip
    return table(["threads", "requests at once", *(stage.label for stage in stages)], rows)


if __name__ == "__main__":
    main()
