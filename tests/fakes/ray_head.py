"""A real Ray cluster of one node on this machine, in its own folder; ended by its process id."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from faults.processes import ENVIRONMENT, ROOT, free_port, poll

_STARTED = "Ray runtime started"
_BIN = Path(sys.executable).parent


class RayHead:
    """`ray start --head`; its workers find this checkout, and `state_home` for their files."""

    def __init__(self, state_home: Path, **variables: str) -> None:
        # a socket's path must be short, which pytest's folders are not
        self._folder = Path(tempfile.mkdtemp(prefix="shoal-ray-", dir="/tmp"))
        self._log = self._folder / "start.log"
        self.address = f"127.0.0.2:{free_port()}"
        host, _, port = self.address.partition(":")
        self.environment = {
            **ENVIRONMENT, "XDG_STATE_HOME": str(state_home), "RAY_ADDRESS": self.address,
            "RAY_USAGE_STATS_ENABLED": "0", **variables,
        }  # fmt: skip
        command = [
            str(_BIN / "ray"), "start", "--head", "--block", f"--node-ip-address={host}",
            f"--port={port}", "--num-cpus=16", "--include-dashboard=false",
            f"--temp-dir={self._folder / 'r'}", "--object-store-memory=100000000",
        ]  # fmt: skip
        environment = {k: v for k, v in self.environment.items() if k != "RAY_ADDRESS"}
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=ROOT,
                env=environment, start_new_session=True,
            )  # fmt: skip

    def wait_started(self) -> "RayHead":
        poll(self._looks_started, within_s=90.0, what="ray start --head")
        return self

    def _looks_started(self) -> bool:
        assert self.process.poll() is None, self._log.read_text()[-2000:]
        return _STARTED in self._log.read_text()

    def end(self) -> None:
        """SIGTERM ends the node's processes with it; whatever is left is killed."""
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)
