"""Starts what is compared. Each is a program of its own, behind the target that load is aimed at.

Rule: whatever serves in a process of its own runs a little behind the load generator in the
kernel's queue (`NICENESS`), all of them alike: on shared cores a generator that waits for a core
would measure itself. Faiss in process can't be told from its generator, and is as it is.
"""

import contextlib
import os
import select
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

from bench.cluster import served
from bench.corpora import WORK
from bench.retrieve_server import Settings
from bench.serving.ground import Ground
from bench.serving.lane import in_words
from bench.serving.loads import BATCH, FAISS, NICENESS, RETRIEVE, SHOAL, TUNED, K, Kind
from shoal.bench.plan import LoadPlan
from shoal.errors import ShoalError, UnavailableError

NO_CACHE = {"SHOAL_ENCODER_SERVICE__CACHE_ENTRIES": "0"}
TIMEOUT_S = 10.0
_START_S = 120.0
_END_S = 10.0
_POLL_S = 0.05
_ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, slots=True, kw_only=True)
class Contestant:
    """What is compared: `start` yields its target, `adapter` speaks to it ("": by its form)."""

    name: str
    about: str
    start: Callable[[], AbstractContextManager[str]]
    adapter: str = ""


def contestants(ground: Ground, n_shards: int) -> list[Contestant]:
    """All of them, on one ground."""
    n_cores = os.cpu_count() or 1
    tuned = replace(ground.retrieve, threads=1, at_once=n_cores)
    return [
        Contestant(
            name=SHOAL,
            about=f"router, encoder (ONNX Runtime), {n_shards} shards, each a process; gRPC; the "
            "encoder's cache off",
            start=lambda: served(ground.served, niceness=NICENESS, **NO_CACHE),
        ),
        Contestant(
            name=RETRIEVE,
            about="one FastAPI process, a sync endpoint, transformers in eager torch and faiss in "
            "it; uvicorn's, torch's and OpenMP's own defaults",
            start=lambda: retrieve_server(ground.retrieve, {}),
        ),
        Contestant(
            name=TUNED,
            about=f"the same with one thread a request and {n_cores} requests at a time, one a "
            "core",
            start=lambda: retrieve_server(tuned, {"OMP_WAIT_POLICY": "PASSIVE"}),
        ),
        Contestant(
            name=FAISS,
            about="IndexRefine, passages and the encoder (ONNX Runtime) in the load generator's "
            "own process, one thread that searches: no network, no other process",
            start=lambda: nullcontext(str(ground.single)),
            adapter="deploy.bench.in_process:open_target",
        ),
    ]


def plan_for(target: str, kind: Kind, ground: Ground, *, adapter: str = "") -> LoadPlan:
    """One kind of load on what `target` names; its stages come later."""
    return LoadPlan(
        target=target,
        adapter=adapter,
        clients=1,
        batch=BATCH if kind == "batch" else 1,
        timeout_s=TIMEOUT_S,
        texts=() if kind == "vector" else ground.texts,
        vectors_file=ground.vectors_file if kind == "vector" else "",
        options={"k": K},
    )


def start_all(
    everybody: list[Contestant], stack: ExitStack, until_s: float, say: Callable[[str], None]
) -> tuple[Mapping[str, str], Mapping[str, str]]:
    """Targets by name, and of those that didn't start, why; none is begun after `until_s`."""
    targets, failures = {}, {}
    for contestant in everybody:
        begun_s = time.monotonic()
        if begun_s > until_s:
            failures[contestant.name] = "didn't start: the time was over"
            continue
        try:
            targets[contestant.name] = stack.enter_context(contestant.start())
        except (ShoalError, OSError, subprocess.SubprocessError) as failure:
            failures[contestant.name] = f"didn't start: {in_words(failure)}"
            say(f"{contestant.name} {failures[contestant.name]}")
        else:
            say(f"{contestant.name}: ready after {time.monotonic() - begun_s:.1f} s")
    return targets, failures


@contextmanager
def retrieve_server(settings: Settings, environment: Mapping[str, str]) -> Iterator[str]:
    """`python -m bench.retrieve_server`; yields its URL.

    Raises:
        UnavailableError: it doesn't start; with the last line that it wrote.
    """
    log_file = WORK / "serving" / f"retrieve-{settings.threads}-{settings.at_once}.log"
    log_file.parent.mkdir(parents=True, exist_ok=True)
    with log_file.open("wb") as log:
        process = subprocess.Popen(
            ["nice", "-n", str(NICENESS), sys.executable, "-m", "bench.retrieve_server",  # noqa: S607
             "--index", str(settings.index), "--corpus", str(settings.corpus),
             "--model", str(settings.model), "--n-probe", str(settings.n_probe),
             "--k-factor", str(settings.k_factor), "--threads", str(settings.threads),
             "--at-once", str(settings.at_once), "--port", "0"],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, text=True,
            cwd=_ROOT, env={**os.environ, **environment},
        )  # fmt: skip
    try:
        port = _port_of(process, log_file)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        try:
            process.communicate(timeout=_END_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()


def _port_of(process: "subprocess.Popen[str]", log_file: Path) -> int:
    assert process.stdout is not None
    until_s = time.monotonic() + _START_S
    ready, _, _ = select.select([process.stdout], [], [], _START_S)
    line = process.stdout.readline() if ready else ""
    if not line.strip().isdigit():
        wrote = [line.strip(), *log_file.read_text(errors="replace").splitlines()]
        told = [text for text in wrote if text.strip()]
        raise UnavailableError(told[-1] if told else f"no word within {_START_S:g} s")
    port = int(line)
    while time.monotonic() < until_s:  # bound, and about to listen
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1.0):
            return port
        time.sleep(_POLL_S)
    raise UnavailableError(f"it doesn't listen on port {port}")
