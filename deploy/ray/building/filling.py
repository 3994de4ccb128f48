"""Filling on Ray: each shard is parted from the corpus, and indexed, by a task of its own.

Rule: tasks write into the build's folder, which all nodes see, and the driver goes on once it sees
what they wrote.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import ray

from deploy.ray.building.cluster import NO_PROGRESS_S, this_node, worker_environment
from deploy.ray.building.failures import as_our_own
from deploy.ray.building.node_failures import FULL, naming_node
from deploy.ray.building.shared_folder import (
    Mark,
    begin_tasks,
    check_mark,
    has_begun,
    say_begun,
    sizes_of,
    wait_for_files,
)
from shard_server.building.segments import (
    IndexJob,
    SplitJob,
    index_shard,
    shard_folder,
    split_shards,
)
from shard_server.building.staging import Output
from shard_server.building.train import Trained
from shard_server.building.vectors import read_trained
from shoal.errors import UnavailableError

_LOOK_S = 30.0


def split_on_ray(
    job: SplitJob, folder: Path, report: Callable[[int], None], *, mark: Mark, n_cpus: int
) -> None:
    """Every shard's files in `folder`, by a task a shard; `report` is told the passages done."""
    report(0)
    n_done = 0
    begin_tasks(mark)
    with as_our_own():
        shared = ray.put(job)
        refs = {
            _start(
                _split,
                f"split {shard_folder(number)}",
                n_cpus,
                *(shared, folder, number, mark),
            ): number
            for number in job.numbers()
        }
        for _, (n_rows, sizes) in _as_done(refs, mark, n_cpus):
            wait_for_files(folder, sizes)
            n_done += n_rows
            report(n_done)


def index_on_ray(
    jobs: Sequence[IndexJob], trained: Trained, *, mark: Mark, n_cpus: int
) -> Iterator[tuple[IndexJob, Output, bool]]:
    """Each job's compressed index, by a task each; jobs of the same output share one."""
    alike: dict[str, list[IndexJob]] = {}
    for job in jobs:
        alike.setdefault(job.key, []).append(job)
    begin_tasks(mark)
    with as_our_own():
        refs = {
            _start(
                _index,
                f"index {shard_folder(same[0].number)}",
                n_cpus,
                *(same[0], trained.path, trained.n_lists, mark),
            ): same
            for same in alike.values()
        }
        for same, (output, sizes, was_there) in _as_done(refs, mark, n_cpus):
            wait_for_files(output.folder, sizes)
            for job in same:
                yield job, output, was_there


def _split(job: SplitJob, folder: Path, number: int, mark: Mark) -> tuple[int, dict[str, int]]:
    """A task: the shard's rows, and the files written for it."""
    with naming_node(this_node, passing=FULL):
        check_mark(mark)
        say_begun(mark)
        split_shards(job, folder, (number,), lambda _: None)
        place = folder / shard_folder(number)
        sizes = {f"{place.name}/{name}": size for name, size in sizes_of(place).items()}
        return int((job.shards() == number).sum()), sizes


def _index(
    job: IndexJob, trained: Path, n_lists: int, mark: Mark
) -> tuple[Output, dict[str, int], bool]:
    """A task: the output, the files in it, and whether it was there."""
    with naming_node(this_node, passing=FULL):
        check_mark(mark)
        say_begun(mark)
        index = read_trained(trained, n_lists=n_lists, dim=job.dim)
        output, was_there = index_shard(job, index)
        return output, sizes_of(output.folder), was_there


def _start(task: Callable[..., Any], name: str, n_cpus: int, *arguments: Any) -> Any:
    """Have Ray run a task; `name` is what its dashboard shows."""
    remote = ray.remote(task)
    placed = remote.options(name=name, num_cpus=n_cpus, runtime_env=worker_environment())
    return placed.remote(*arguments)


def _as_done(refs: dict[Any, Any], mark: Mark, n_cpus: int) -> Iterator[tuple[Any, Any]]:
    """What each reference stands for, with its result, as they are done.

    A task may take hours, so the limit is on how long none begins.

    Raises:
        UnavailableError: none did, for want of CPUs.
    """
    left = list(refs)
    deadline_s = time.monotonic() + NO_PROGRESS_S
    try:
        while left:
            done, left = ray.wait(left, timeout=_LOOK_S)
            for ref in done:
                yield refs[ref], ray.get(ref)
            if not done and time.monotonic() >= deadline_s and not has_begun(mark):
                raise UnavailableError(
                    f"no node of the Ray cluster had {n_cpus} of its CPUs free for a task in "
                    f"{NO_PROGRESS_S / 60:.0f} minutes (see 'ray status'); the same command goes "
                    "on once one has"
                )
    finally:
        for ref in left:
            ray.cancel(ref)
