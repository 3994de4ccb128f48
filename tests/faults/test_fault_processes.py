"""A supervisor's death, a GPU's one thread, and a load generator that doesn't flatter."""

import asyncio
import json
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request

import pytest
from faults.mini import Mini
from faults.processes import ENVIRONMENT, exists, poll

from shard_server.search_thread import SearchThread
from shoal.bench import LoadPlan, run_load
from shoal.rpc.deadline import Deadline

pytestmark = [pytest.mark.end_to_end, pytest.mark.timeout(300)]

LAUNCH = """
import os, subprocess, sys
folder, index = sys.argv[1:]
parent = ["--parent-pid", str(os.getpid())]
commands = {
    "router": ["router", "--topology", f"{folder}/topology.json"],
    "shard": ["shard_server", "--index", index, "--shard", "0"],
    "encoder": ["faults.stub_encoder"],
}
children = [
    subprocess.Popen([sys.executable, "-m", *command, *parent, "--address-file",
                      f"{folder}/{name}.json"], start_new_session=True)
    for name, command in commands.items()
]
for child in children:
    child.wait()
"""


def test_children_end_with_their_supervisor(tmp_path, mini_index, record):
    """Fault 58: whoever started a router, a shard and an encoder is killed."""
    (tmp_path / "topology.json").write_text("{}")
    supervisor = subprocess.Popen(
        [sys.executable, "-c", LAUNCH, str(tmp_path), str(mini_index.folder)],
        env=ENVIRONMENT | {"XDG_CACHE_HOME": str(tmp_path)}, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        files = [tmp_path / f"{name}.json" for name in ("router", "shard", "encoder")]
        poll(lambda: all(f.exists() for f in files), within_s=60, what="all three listen")
        told = [json.loads(file.read_text()) for file in files]
    finally:
        supervisor.send_signal(signal.SIGKILL)
        supervisor.wait()
    begun_s = time.monotonic()
    poll(lambda: not any(exists(t["pid"]) for t in told), within_s=60, what="all three are gone")
    record.time("router, shard and encoder are gone", 2.0, time.monotonic() - begun_s)
    for each in told:
        host, _, port = each["address"].rpartition(":")
        socket.create_server((host, int(port))).close()
    record.exactly("their ports", "free", "free")


class OneOwner:
    """A resource that is corrupted where two threads ever touch it."""

    def __init__(self) -> None:
        self.owners: set[int] = set()
        self._inside = 0
        self.n_overlaps = 0
        self.n_calls = 0

    def touch(self) -> None:
        self._inside += 1
        self.n_overlaps += self._inside > 1
        self.owners.add(threading.get_ident())
        self.n_calls += 1
        self._inside -= 1


async def test_a_resource_has_one_thread(record):
    """Fault 59: 10,000 concurrent searches, loads and releases over one GPU's resources."""
    resources = OneOwner()
    thread = SearchThread(max_queued=20_000)
    deadline = Deadline.after(100)
    try:
        async with asyncio.TaskGroup() as group:
            for i in range(10_000):
                if i % 10:
                    group.create_task(
                        thread.search(
                            lambda _: resources.touch(), n_queries=1, deadline=deadline,
                            bulk=bool(i % 3),
                        )
                    )  # fmt: skip
                else:
                    group.create_task(thread.own(resources.touch))
    finally:
        await thread.close()
    record.exactly("calls", 10_000, resources.n_calls)
    record.exactly("threads that touched it", 1, len(resources.owners))
    record.exactly("calls that overlapped", 0, resources.n_overlaps)
    assert threading.get_ident() not in resources.owners


@pytest.mark.faults
def test_the_load_generator_shows_a_freeze(mini: Mini, record):
    """Fault 60: the server is stopped for 6 s of a 10 s run of 100 calls a second."""
    echo = mini.other("echo", "faults.echo")
    plan = LoadPlan(target=echo.address, rate=100.0, duration_s=10.0, warmup_s=1.0, timeout_s=20.0)

    def freeze() -> None:
        poll(lambda: n_calls(echo) > 150, within_s=30, what="the run is under way")
        echo.stop()
        time.sleep(6.0)
        echo.cont()

    freezing = threading.Thread(target=freeze)
    freezing.start()
    try:
        report = run_load(plan)
    finally:
        freezing.join()
    # 60 % of the arrivals wait evenly from 0 to 6 s: the quantiles are arithmetic
    for name, wanted_s in (("p50", 1.0), ("p90", 5.0), ("p99", 5.9)):
        record.about(name, wanted_s, getattr(report.latency_ms, name) / 1e3)
    record.exactly("failed calls", {}, report.errors)


def n_calls(process) -> float:
    url = f"http://127.0.0.1:{process.metrics_port}/metrics"
    with urllib.request.urlopen(url, timeout=5) as page:
        lines = page.read().decode().splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith("shoal_requests_total"))
