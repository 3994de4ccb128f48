"""A served cluster for a benchmark, through the public command."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from shoal.client import Client

SHOAL = str(Path(sys.executable).with_name("shoal"))


@contextmanager
def served(index_dir: Path, **environment: str) -> Iterator[str]:
    """`shoal up` of an index; yields the router's host:port, and takes everything down again."""
    name = f"bench-{os.getpid()}"
    subprocess.run(
        [SHOAL, "up", "--index", str(index_dir), "--name", name, "--port", "0", "--detach"],
        check=True,
        stdout=subprocess.DEVNULL,
        env={**os.environ, **environment},
    )
    try:
        status = subprocess.run(
            [SHOAL, "status", "--name", name, "--json"], check=True, capture_output=True, text=True
        )
        target = str(json.loads(status.stdout)["target"])
        with Client(target) as client:
            client.wait_ready(timeout_s=30)
        yield target
    finally:
        subprocess.run([SHOAL, "down", "--name", name], check=True, stdout=subprocess.DEVNULL)
