"""A served cluster for a benchmark, through the public command."""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from shoal.client import Client

SHOAL = str(Path(sys.executable).with_name("shoal"))
_UP_S, _DOWN_S = 180.0, 90.0


@contextmanager
def served(index_dir: Path, *, niceness: int = 0, **environment: str) -> Iterator[str]:
    """`shoal up` of an index; yields the router's host:port, and takes everything down again.

    Raises:
        subprocess.CalledProcessError: it doesn't start; the command's own words are in `stderr`.
        subprocess.TimeoutExpired: it doesn't say.
    """
    name = f"bench-{os.getpid()}"

    def shoal(*arguments: str, within_s: float) -> str:
        return subprocess.run(
            ["nice", "-n", str(niceness), SHOAL, *arguments, "--name", name],  # noqa: S607
            check=True,
            capture_output=True,
            text=True,
            timeout=within_s,
            env={**os.environ, **environment},
        ).stdout

    try:
        shoal("up", "--index", str(index_dir), "--port", "0", "--detach", within_s=_UP_S)
        target = str(json.loads(shoal("status", "--json", within_s=_DOWN_S))["target"])
        with Client(target) as client:
            client.wait_ready(timeout_s=30)
        yield target
    finally:
        # one that didn't become ready may be there in part; where nothing is, there's nothing to do
        with contextlib.suppress(subprocess.SubprocessError):
            shoal("down", within_s=_DOWN_S)
