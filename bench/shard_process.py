"""One real shard server process, without a cluster around it."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from deploy.child import read_address

_START_S = 60.0


@contextmanager
def shard_process(index_dir: Path) -> Iterator[grpc.Channel]:
    """Serves shard 0 on loopback; yields a channel once it says SERVING, and ends the process."""
    with TemporaryDirectory() as folder:
        address_file = Path(folder) / "address.json"
        command = [
            sys.executable, "-P", "-m", "shard_server", "--index", str(index_dir), "--shard", "0",
            "--port", "0", "--address-file", str(address_file), "--parent-pid", str(os.getpid()),
        ]  # fmt: skip
        with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
            try:
                until_s = time.monotonic() + _START_S
                address = _address(process, address_file, until_s)
                with grpc.insecure_channel(address) as channel:
                    _wait_serving(channel, until_s)
                    yield channel
            finally:
                process.terminate()


def _address(process: "subprocess.Popen[bytes]", file: Path, until_s: float) -> str:
    while not (address := read_address(file, process.pid)):
        if process.poll() is not None or time.monotonic() > until_s:
            raise SystemExit(f"the shard server did not start: exit code {process.returncode}")
        time.sleep(0.02)
    return address


def _wait_serving(channel: grpc.Channel, until_s: float) -> None:
    stub = health_pb2_grpc.HealthStub(channel)
    request = health_pb2.HealthCheckRequest()
    serving = health_pb2.HealthCheckResponse.SERVING
    while stub.Check(request, timeout=2.0, wait_for_ready=True).status != serving:
        if time.monotonic() > until_s:
            raise SystemExit("the shard server does not come to serve")
        time.sleep(0.02)
