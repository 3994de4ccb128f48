"""`python -m router` as a process: start, health, drain, and every way to fail to start."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Self

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from shoal.v1 import search_pb2 as pb
from shoal.v1 import search_pb2_grpc

pytestmark = pytest.mark.end_to_end

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}


def poll(value: Callable[[], object], within_s: float = 60.0) -> object:
    """The value, once there is one."""
    end_s = time.monotonic() + within_s
    while not (found := value()):
        assert time.monotonic() < end_s, "it never came"
        time.sleep(0.02)
    return found


class Router:
    """A process over a topology of one shard that nobody serves."""

    def __init__(self, folder: Path, *flags: str, text: str | None = None) -> None:
        self.address_file = folder / "address.json"
        topology = folder / "topology.json"
        shards = [["127.0.0.1:9"]]
        told = {"indexes": [{"name": "books", "version": 1, "shards": shards}], "encoders": []}
        topology.write_text(json.dumps(told) if text is None else text)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "router", "--topology", str(topology),
             "--address-file", str(self.address_file), *flags],
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT,
            cwd=folder,
        )  # fmt: skip

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        with self.process:  # closes its pipes
            self.process.wait()

    def _told(self) -> dict[str, object]:
        poll(lambda: self.address_file.exists() or self.process.poll() is not None)
        assert self.address_file.exists(), self.ended()
        told = json.loads(self.address_file.read_text())
        assert told["pid"] == self.process.pid
        return told

    @property
    def address(self) -> str:
        return str(self._told()["address"])

    @property
    def metrics_port(self) -> int:
        return int(str(self._told()["metrics"]).rpartition(":")[2])

    def ended(self, within_s: float = 60.0) -> tuple[int, str]:
        """Exit code and stderr."""
        self.process.wait(within_s)
        assert self.process.stderr is not None
        return self.process.returncode, self.process.stderr.read()


def serving(channel: grpc.Channel, service: str) -> bool:
    request = health_pb2.HealthCheckRequest(service=service)
    answer = health_pb2_grpc.HealthStub(channel).Check(request, wait_for_ready=True, timeout=60)
    return answer.status == health_pb2.HealthCheckResponse.SERVING


def test_a_router_serves_and_drains(tmp_path):
    """Health, reflection, metrics, the address file, a search's refusal, and exit 0 on SIGTERM."""
    with Router(tmp_path, "--metrics-port", "0") as router:
        with grpc.insecure_channel(router.address) as channel:
            for service in ("", "shoal.v1.SearchService", "shoal.internal.v1.AdminService"):
                poll(lambda service=service: serving(channel, service))
            stub = search_pb2_grpc.SearchServiceStub(channel)
            assert not stub.ListIndexes(pb.ListIndexesRequest()).indexes
            with pytest.raises(grpc.RpcError) as caught:
                stub.Search(pb.SearchRequest(queries=[pb.Query(text="a")]), timeout=60)
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
            reflection = reflection_pb2_grpc.ServerReflectionStub(channel)
            ask = reflection_pb2.ServerReflectionRequest(list_services="")
            (listed,) = reflection.ServerReflectionInfo(iter([ask]))
            names = {service.name for service in listed.list_services_response.service}
            assert {"shoal.v1.SearchService", "grpc.health.v1.Health"} <= names
        with socket.create_connection(("127.0.0.1", router.metrics_port)) as page:
            page.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
            text = page.makefile().read()
            assert 'shoal_requests_total{code="UNAVAILABLE",rpc="Search"} 1.0' in text
            assert 'shoal_coverage_ratio{index="books"} 0.0' in text
        router.process.send_signal(signal.SIGTERM)
        code, stderr = router.ended()
        assert code == 0
        assert "Traceback" not in stderr
        assert not router.address_file.exists()


def test_faults_at_the_start_are_one_line(tmp_path):
    """Port or metrics port taken, exposed host, wrong topology, wrong setting: code and a line."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        starts: list[tuple[int, str, Router]] = [
            (74, port, Router(_folder(tmp_path, "a"), "--port", port)),
            (74, port, Router(_folder(tmp_path, "b"), "--metrics-port", port)),
            (78, "insecure", Router(_folder(tmp_path, "c"), "--host", "0.0.0.0")),
            (78, "topology", Router(_folder(tmp_path, "d"), text="{")),
            (78, "port", Router(_folder(tmp_path, "e"), "--port", "x")),
            (64, "--prot", Router(_folder(tmp_path, "f"), "--prot", "1")),
            (74, "nowhere", Router(_folder(tmp_path, "g"), "--address-file", "/nowhere/a")),
        ]
        with contextlib.ExitStack() as stack:
            for _, _, router in starts:
                stack.enter_context(router)
            for wanted, named, router in starts:
                code, stderr = router.ended()
                assert code == wanted, stderr
                assert named in stderr.splitlines()[-1], stderr
                assert "Traceback" not in stderr
                ours = [n for n in stderr.splitlines() if n.startswith("router: error:")]
                assert len(ours) == (code != 2), stderr


def test_a_router_dies_with_its_parent(tmp_path):
    """The launcher is killed outright: the router goes too, though nobody tells it."""
    (tmp_path / "topology.json").write_text("{}")
    launcher = subprocess.Popen(
        [sys.executable, "-c", _LAUNCH, str(tmp_path)], env=ENVIRONMENT, stderr=subprocess.DEVNULL
    )
    try:
        address_file = tmp_path / "address.json"
        poll(address_file.exists)
        pid = json.loads(address_file.read_text())["pid"]
    finally:
        launcher.kill()
        launcher.wait()
    poll(lambda: not _alive(pid))


_LAUNCH = """
import os, subprocess, sys
folder = sys.argv[1]
child = subprocess.Popen([sys.executable, "-m", "router", "--topology", f"{folder}/topology.json",
    "--address-file", f"{folder}/address.json", "--parent-pid", str(os.getpid())])
child.wait()
"""


def test_sigterm_while_starting_ends_it(tmp_path):
    """A shard that accepts and never answers holds up the start; SIGTERM doesn't wait for it."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        shards = [[f"127.0.0.1:{silent.getsockname()[1]}"]]
        told = {"indexes": [{"name": "books", "version": 1, "shards": shards}]}
        with Router(tmp_path, "--check-timeout-s", "3600", text=json.dumps(told)) as router:
            with grpc.insecure_channel(router.address) as channel:
                assert not serving(channel, "")
            router.process.send_signal(signal.SIGTERM)
            code, stderr = router.ended()
            assert code == 0, stderr
            assert "Traceback" not in stderr


def test_a_router_listens_on_ipv6_loopback(tmp_path):
    """::1 is written with brackets where a port follows."""
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no IPv6 loopback")
    with Router(tmp_path, "--host", "::1") as router:
        assert router.address.startswith("[::1]:")
        with grpc.insecure_channel(router.address) as channel:
            poll(lambda: serving(channel, ""))


def _folder(parent: Path, name: str) -> Path:
    (parent / name).mkdir()
    return parent / name


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
