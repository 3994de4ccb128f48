"""Many schedules, over all cores; a failure names its seed."""

import contextlib
import gc
import multiprocessing
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor

from simulation import oracle
from simulation.schedule import draw
from simulation.world import play

_COLLECT_EVERY = 100
_WORTH_A_PROCESS = 500
"""Seeds; a process takes as long to start as a hundred to run."""


def check(seed: int) -> None:
    """A seed's schedule, named where it fails."""
    try:
        oracle.check(play(draw(seed)))
    except Exception as failure:
        raise AssertionError(f"seed {seed}: {failure}; replay it: --sim-seed {seed}") from failure


def check_all(seeds: Sequence[int]) -> None:
    """Each seed's schedule; those of several processes where they are many."""
    n_processes = min(len(os.sched_getaffinity(0)), len(seeds) // _WORTH_A_PROCESS)
    if n_processes < 2:
        check_here(seeds)
        return
    # spawned: gRPC's threads don't survive a fork
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(n_processes, mp_context=context) as pool:
        parts = [list(seeds[first::n_processes]) for first in range(n_processes)]
        for _ in pool.map(check_here, parts):
            pass


def check_here(seeds: Sequence[int]) -> None:
    """Each seed's schedule, in this process."""
    with rare_collection():
        for number, seed in enumerate(seeds):
            check(seed)
            if number % _COLLECT_EVERY == 0:
                gc.collect()


@contextlib.contextmanager
def rare_collection() -> Iterator[None]:
    """Every schedule is a program of its own, whose garbage would be looked for all the time."""
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.unfreeze()
