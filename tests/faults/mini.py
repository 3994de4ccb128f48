"""The cluster under test: 4 shards x 2 replicas and an encoder, shared by a session's tests.

Routers are made by each test, over one replica of each shard or both, so that what a router
learned in one test is not known to the next. Knows processes and the topology file; no load.
"""

import json
import urllib.request
from collections.abc import Mapping
from pathlib import Path

import grpc
from faults import stub
from faults.announcing import Announced, everybody
from faults.index import MiniIndex
from faults.processes import Process, exists, poll

from shoal.internal.v1 import admin_pb2 as pb
from shoal.internal.v1 import admin_pb2_grpc

HEALTHY = pb.REPLICA_STATE_HEALTHY
EJECTED = pb.REPLICA_STATE_EJECTED


class Router:
    """A router process and the topology file that it watches."""

    def __init__(self, process: Process, topology: Path) -> None:
        self.process = process
        self._topology = topology
        self._channel: grpc.Channel | None = None

    @property
    def address(self) -> str:
        return self.process.address

    def write_topology(self, shards: list[list[str]], encoders: list[str]) -> None:
        """Replaces the file in one rename."""
        told = {
            "format": 1,
            "indexes": [{"name": stub.NAME, "version": 1, "shards": shards}],
            "encoders": encoders,
        }
        new = self._topology.with_suffix(".new")
        new.write_text(json.dumps(told))
        new.replace(self._topology)

    @property
    def admin(self) -> admin_pb2_grpc.AdminServiceStub:
        if self._channel is None:
            self._channel = grpc.insecure_channel(self.address)
        return admin_pb2_grpc.AdminServiceStub(self._channel)

    def close(self) -> None:
        if self._channel is not None:
            self._channel.close()
        self.process.end()

    def replicas(self) -> dict[str, pb.ShardReplica]:
        """What the router thinks of each shard replica, by address."""
        told = self.admin.GetTopology(pb.GetTopologyRequest(), timeout=30)
        return {r.address: r for i in told.indexes for s in i.shards for r in s.replicas}

    def n_in_flight(self) -> int:
        """Calls to shards under way, and queries that wait for one."""
        return sum(r.in_flight + r.queued for r in self.replicas().values())

    def wait_whole(self, within_s: float = 60.0) -> None:
        """Returns when every replica and encoder is healthy."""

        def whole() -> bool:
            told = self.admin.GetTopology(pb.GetTopologyRequest(), timeout=30)
            shards = [r for i in told.indexes for s in i.shards for r in s.replicas]
            return bool(shards) and all(r.state == HEALTHY for r in (*shards, *told.encoders))

        poll(whole, within_s=within_s, what="the router finds everybody healthy")

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples that have these labels."""
        url = f"http://127.0.0.1:{self.process.metrics_port}/metrics"
        with urllib.request.urlopen(url, timeout=30) as page:
            text = page.read().decode()
        wanted = [f'{label}="{value}"' for label, value in labels.items()]
        return sum(
            float(line.rpartition(" ")[2])
            for line in text.splitlines()
            if line.partition("{")[0].partition(" ")[0] == name and all(w in line for w in wanted)
        )

    def n_shard_calls(self) -> float:
        """Calls made to shards so far, answered or not."""
        return self.metric("shoal_shard_requests_total")


class Mini:
    """All processes of a session; those that a test needs are started when it asks."""

    def __init__(self, folder: Path, index: MiniIndex) -> None:
        self.folder = folder
        self.index = index
        self._shards = {
            (shard, replica): Process(
                f"shard-{shard}-{'ab'[replica]}",
                "shard_server",
                ["--index", str(index.folder), "--shard", str(shard), "--version", "1"],
                folder,
            )
            for shard in range(stub.N_SHARDS)
            for replica in range(2)
        }
        self._encoder = Process("encoder", "faults.stub_encoder", [], folder)
        self._others: list[Process] = []
        self._routers: list[Router] = []
        self._n_routers = 0
        self._pids: set[int] = set()

    def shard(self, shard: int, replica: int = 0) -> Process:
        return self._shards[shard, replica]

    @property
    def encoder(self) -> Process:
        return self._encoder

    def shards(self, n_replicas: int) -> list[Process]:
        return [process for (_, r), process in self._shards.items() if r < n_replicas]

    def other(self, name: str, module: str, *arguments: str) -> Process:
        """One more process, of this test alone, started."""
        process = Process(name, module, list(arguments), self.folder)
        self._others.append(process)
        return self.started(process)

    def started(self, *processes: Process) -> Process:
        """Starts those that don't run, side by side; returns the first."""
        for process in processes:
            if not process.is_alive:
                process.launch()
            self._pids.add(process.pid)
        for process in processes:
            process.wait_started()
        return processes[0]

    def heal(self, n_replicas: int) -> None:
        """Everything that a cluster of so many replicas has runs and goes on."""
        needed = [*self.shards(n_replicas), self._encoder]
        for process in needed:
            process.cont()
        self.started(*needed)

    def router(
        self,
        n_replicas: int,
        *flags: str,
        instead: Mapping[str, str] | None = None,
        whole: bool = True,
    ) -> Router:
        """A new router over so many replicas a shard.

        Args:
            n_replicas: 1 or 2.
            flags: its settings.
            instead: addresses to use in place of others, such as a proxy's for its process's.
            whole: wait until it finds everybody healthy.
        """
        self.heal(n_replicas)
        self._n_routers += 1
        number = self._n_routers
        topology = self.folder / f"topology-{number}.json"
        process = Process(
            f"router-{number}",
            "router",
            ["--topology", str(topology), "--release-after-s", "0.5", *flags],
            self.folder,
        )
        router = Router(process, topology)
        self._routers.append(router)
        through = instead or {}
        shards = [
            [through.get(a, a) for a in (self.shard(s, r).address for r in range(n_replicas))]
            for s in range(stub.N_SHARDS)
        ]
        encoder = self._encoder.address
        router.write_topology(shards, [through.get(encoder, encoder)])
        self.started(process)
        if whole:
            router.wait_whole()
        return router

    def lease_router(self, n_replicas: int) -> tuple[Router, Announced]:
        """A new router that follows leases, and what to announce to it; it doesn't serve yet."""
        self.heal(n_replicas)
        self._n_routers += 1
        name = f"router-{self._n_routers}"
        flags = ["--topology-source", "leases"]
        process = Process(name, "router", flags, self.folder)
        router = Router(process, self.folder / "none")
        self._routers.append(router)
        process.launch()
        self._pids.add(process.pid)
        poll(lambda: process.looks_started() or process.address, within_s=60, what="it listens")
        shards = {key: shard for key, shard in self._shards.items() if key[1] < n_replicas}
        return router, everybody(shards, self._encoder)

    def start_again(self) -> None:
        """Restarts every shard that runs, so that it has version 1 open and nothing else."""
        running = [process for process in self._shards.values() if process.is_alive]
        for process in running:
            process.end()
        self.started(*running)

    @property
    def _all(self) -> list[Process]:
        routers = [router.process for router in self._routers]
        return [*self._shards.values(), self._encoder, *self._others, *routers]

    def refuse_unexpected_ends(self) -> None:
        """I4: no process ended but those that the test ended itself."""
        for process in self._all:
            if process.was_started and not process.expected_dead:
                assert process.is_alive, f"{process.name}: {process.log.read_text()[-2000:]}"

    def end_test(self) -> None:
        """Ends what belongs to one test; the shards and the encoder stay."""
        for process in self._all:
            process.cont()
        for router in self._routers:
            router.close()
        for process in self._others:
            process.end()
        self._routers.clear()
        self._others.clear()

    def end_all(self) -> None:
        """Ends everything; I4: nothing is left."""
        self.end_test()
        for process in self._all:
            process.end()
        poll(
            lambda: not any(exists(pid) for pid in self._pids),
            within_s=30.0,
            what="no orphan is left",
        )
