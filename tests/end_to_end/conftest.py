"""One real cluster for the end-to-end tests: built and served through the public command.

Everything is real: the packaged MiniLM encodes, two shard servers search, a router merges.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from facts import FACTS

from bench.otlp_receiver import Receiver

SHOAL = str(Path(sys.executable).with_name("shoal"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """A running cluster: its name, its router's host:port and URL, and its environment."""

    name: str
    target: str
    http: str
    environment: dict[str, str]
    index_dir: Path

    def shoal(self, *arguments: str, check: bool = True) -> "subprocess.CompletedProcess[str]":
        """Runs the command."""
        return run_shoal(*arguments, environment=self.environment, check=check)


def run_shoal(
    *arguments: str, environment: dict[str, str], check: bool = True
) -> "subprocess.CompletedProcess[str]":
    done = subprocess.run(
        [SHOAL, *arguments], capture_output=True, text=True, timeout=200, env=environment
    )
    assert not check or done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return done


def status_of(name: str, environment: dict[str, str]) -> dict[str, Any]:
    done = run_shoal("status", "--name", name, "--json", environment=environment)
    return dict(json.loads(done.stdout))


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The tests' own state folder, so that no cluster of the machine's user is touched.

    On a busy machine a process may get no core for longer than the 0.4 s after which a router
    leaves a silent replica out, and its shard's passages with it.
    """
    return {
        **os.environ,
        "XDG_STATE_HOME": str(tmp_path_factory.mktemp("state")),
        "SHOAL_ROUTER__CHECK_TIMEOUT_S": "20",
    }


@pytest.fixture(scope="session")
def collector() -> Iterator[Receiver]:
    """What the cluster sends its traces to."""
    with Receiver() as receiver:
        yield receiver


@pytest.fixture(scope="session")
def cluster(
    tmp_path_factory: pytest.TempPathFactory, environment: dict[str, str], collector: Receiver
) -> Iterator[Cluster]:
    """A cluster of two shards over FACTS; it traces what its callers trace, and no more."""
    folder = tmp_path_factory.mktemp("cluster")
    corpus, index_dir = folder / "facts.jsonl", folder / "facts"
    corpus.write_text(
        "".join(
            json.dumps({"_id": id_, "title": title, "text": text, "metadata": {"words": len(text)}})
            + "\n"
            for id_, (title, text) in FACTS.items()
        )
    )
    run_shoal(
        "index", "build", "--corpus", str(corpus), "--index", str(index_dir), "--shards", "2",
        environment=environment,
    )  # fmt: skip
    quick = {**environment, "OTEL_BSP_SCHEDULE_DELAY": "100"}
    traced = ("--traces-otlp", collector.address, "--trace-sample", "0")
    with serving(index_dir, f"test-{os.getpid()}", quick, *traced) as served:
        yield served


@pytest.fixture(scope="session")
def serve(environment: dict[str, str]) -> Callable[[Path, str], AbstractContextManager[Cluster]]:
    """`with serve(index_dir, name) as cluster`: a cluster of another index."""
    return lambda index_dir, name: serving(index_dir, f"{name}-{os.getpid()}", environment)


@contextmanager
def serving(
    index_dir: Path, name: str, environment: dict[str, str], *flags: str
) -> Iterator[Cluster]:
    run_shoal(
        "up", "--index", str(index_dir), "--name", name, "--port", "0", "--detach",
        "--http-port", "0", *flags, environment=environment,
    )  # fmt: skip
    try:
        told = status_of(name, environment)
        yield Cluster(
            name=name, target=told["target"], http=told["http"], environment=environment,
            index_dir=index_dir,
        )  # fmt: skip
    finally:
        run_shoal("down", "--name", name, environment=environment)
