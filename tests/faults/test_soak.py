"""Everything is killed and stopped at random for minutes, and answers stay right."""

import asyncio
import random
import time

import grpc
import pytest
from faults.load import METHOD, requests_of, under_load
from faults.mini import Mini
from faults.processes import Process

from shoal.attempts import Attempts
from shoal.bench.target import OK
from shoal.errors import ShoalError
from shoal.rpc.channel import open_channel
from shoal.v1 import search_pb2 as pb

pytestmark = [pytest.mark.end_to_end, pytest.mark.soak, pytest.mark.timeout(7_200)]

EVERY_S = 5.0
CHANCE = 0.3
RESTART_S = 0.2
MIB = 1 << 20


class Killer:
    """Kills or stops each process with a chance of 0.3 every 5 s, and brings it back.

    Routers are killed one at a time, so that there is one to ask, and never stopped: nobody can
    tell a client that its router hangs but its own deadline.
    """

    def __init__(self, mini: Mini, routers: list[Process], chance: random.Random) -> None:
        self._mini = mini
        self._backends = [*mini.shards(2), mini.encoder]
        self._routers = routers
        self._chance = chance
        self.n_kills = 0
        self.n_stops = 0

    async def run(self, total_s: float) -> None:
        """Rages for so long; everything runs at the end."""
        end_s = time.monotonic() + total_s
        while time.monotonic() < end_s:
            next_s = time.monotonic() + EVERY_S
            async with asyncio.TaskGroup() as group:
                for process in self._backends:
                    # drawn whatever comes of it, so that a seed always means the same
                    hit, stops = self._chance.random() < CHANCE, self._chance.random() < 0.5
                    held_s, at_s = self._chance.uniform(0.5, 3.0), self._chance.uniform(0.0, 1.0)
                    if hit and stops:
                        group.create_task(self._stop(process, at_s, held_s))
                    elif hit:
                        group.create_task(self._kill(process, at_s))
                hit, victim = self._chance.random() < CHANCE, self._chance.choice(self._routers)
                if hit:
                    group.create_task(self._kill(victim, 0.5))
            await asyncio.sleep(max(0.0, next_s - time.monotonic()))

    async def _kill(self, process: Process, at_s: float) -> None:
        await asyncio.sleep(at_s)
        self.n_kills += 1
        await asyncio.to_thread(process.kill)
        await asyncio.sleep(RESTART_S)
        await asyncio.to_thread(self._mini.started, process)

    async def _stop(self, process: Process, at_s: float, held_s: float) -> None:
        await asyncio.sleep(at_s)
        self.n_stops += 1
        process.stop()
        await asyncio.sleep(held_s)
        process.cont()


async def test_soak(mini: Mini, oracle, rate, record, pytestconfig):
    """Fault soak: every process is killed or stopped with a chance of 0.3 every 5 s."""
    total_s = pytestconfig.getoption("--soak-s")
    seed = pytestconfig.getoption("--soak-seed")
    seed = random.randrange(1 << 32) if seed is None else seed
    print(f"soak of {total_s:g} s, --soak-seed {seed}", flush=True)
    routers = [mini.router(2), mini.router(2)]
    target = f"ipv4:{routers[0].address},{routers[1].address}"
    processes = [*mini.shards(2), mini.encoder, *(router.process for router in routers)]
    killer = Killer(mini, [router.process for router in routers], random.Random(seed))
    requests = requests_of(oracle, min_coverage=0.0)
    size, wrong = {}, []

    async with open_channel(target) as channel:
        method = channel.unary_unary(METHOD, None, pb.SearchResponse.FromString)

        async def ask(i, timeout_s):
            """As the SDK asks: the same retries, within the same deadline."""
            attempts = Attempts(target, timeout_s, None)
            while True:
                try:
                    response = await method(requests[i % 64], **attempts.next())
                except grpc.RpcError as failure:
                    try:
                        delay_s = attempts.delay_s(failure)
                    except ShoalError as told:
                        return told.code.name, None, told.message
                else:
                    if why := oracle.fault(response, [i % 64], 10):
                        wrong.append(why)
                    del response.results[:]  # an hour's answers would fill the memory
                    return OK, response, ""
                await asyncio.sleep(delay_s)

        async def rage(run):
            size.update({p.name: (p.rss_bytes(), p.n_fds()) for p in processes})
            await killer.run(total_s)

        run = await under_load(ask, oracle, rage, rate=rate, before_s=10.0, after_s=15.0)
    late = run.n_late()
    answered = sum(s.code == OK for s in run.seen) - late
    print(f"seed {seed}: {killer.n_kills} kills, {killer.n_stops} stops, {run.codes()}", flush=True)
    record.at_most(f"wrong of {len(run.seen)} answers (seed {seed})", 0, len(wrong))
    record.at_least("share answered within the deadline", 0.999, answered / len(run.seen))
    assert run.after, "no load at the end"
    assert all(s.response and s.response.coverage == 1.0 for s in run.after[-100:])
    grown = max(p.rss_bytes() / (size[p.name][0] + 8 * MIB) for p in processes)
    more_fds = max(p.n_fds() - size[p.name][1] for p in processes)
    record.at_most("memory at the end over that before", 1.1, grown)
    record.at_most("descriptors more than before", 8, more_fds)
