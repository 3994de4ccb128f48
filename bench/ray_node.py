"""A Ray cluster of one node, for a benchmark: started, waited for, ended by its process id."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_START_S = 90.0


@contextmanager
def ray_head(folder: Path, **environment: str) -> Iterator[str]:
    """A node that counts 16 CPUs and whose workers run this checkout; yields its address.

    `folder` must have a short path, for sockets' sake; the workers keep their state in it.
    """
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [
        str(Path(sys.executable).with_name("ray")), "start", "--head", "--block",
        "--node-ip-address=127.0.0.2", f"--port={port}", "--num-cpus=16",
        "--include-dashboard=false", f"--temp-dir={folder / 'r'}",
        "--object-store-memory=100000000",
    ]  # fmt: skip
    variables = {
        **os.environ, **environment, "XDG_STATE_HOME": str(folder / "state"),
        "PYTHONPATH": os.pathsep.join((str(Path.cwd()), os.environ.get("PYTHONPATH", ""))),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_worker_niceness": "0",  # Ray's 15 would put our processes behind all others
    }  # fmt: skip
    log = folder / "ray.log"
    with log.open("wb") as out:
        head = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=variables,
            start_new_session=True,
        )  # fmt: skip
    try:
        until_s = time.monotonic() + _START_S
        while "Ray runtime started" not in log.read_text():
            if head.poll() is not None or time.monotonic() > until_s:
                raise SystemExit(f"Ray did not start: {log.read_text()[-500:]}")
            time.sleep(0.2)
        yield f"127.0.0.2:{port}"
    finally:
        head.send_signal(signal.SIGTERM)
        try:
            head.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(head.pid, signal.SIGKILL)
            head.wait()
