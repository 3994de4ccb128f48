"""The executor of a build on Ray, for `build_index`."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from deploy.ray.building.cluster import joined, nodes_alive, settled_nodes
from deploy.ray.building.encoding import EncodeWork, encode_on_ray
from deploy.ray.building.filling import index_on_ray, split_on_ray
from deploy.ray.building.placement import (
    Device,
    Node,
    Placement,
    cpus_a_task,
    lacks,
    place_encoders,
)
from deploy.ray.building.shared_folder import Mark, leave_mark
from shard_server.building.bring import GivenVectors
from shard_server.building.chunk_file import AnyRows, Chunk
from shard_server.building.executor import HERE
from shard_server.building.segments import IndexJob, SplitJob
from shard_server.building.stage import PassageEncode
from shard_server.building.staging import STAGING_DIR, Output
from shard_server.building.train import Trained


@dataclass(slots=True, kw_only=True)
class OnRay:
    """An `Executor` whose encoders are actors and whose shards are tasks of the joined cluster.

    `load` makes an actor's encoder, and `note` is told what a person should know. The folder of the
    index must be given to the build as an absolute path: workers have other working directories.
    """

    load: Callable[[], PassageEncode]
    placement: Placement
    note: Callable[[str], None]
    _marks: dict[Path, Mark] = field(default_factory=dict)
    _nodes: Sequence[Node] = field(default_factory=nodes_alive)
    """As they were before this build took anything."""

    def encode(
        self,
        corpus: Path,
        chunks: Sequence[Chunk],
        encode: PassageEncode,
        *,
        keep_float32: bool = False,
    ) -> Iterator[tuple[Chunk, AnyRows]]:
        """By the actors; vectors that are given are copied here."""
        if isinstance(encode, GivenVectors):
            return HERE.encode(corpus, chunks, encode)
        self.note(f"Ray: {self.placement.in_words()}")
        each = self.placement
        self._tell("encoder", nodes_alive(), n_cpus=each.cpus_each, n_gpus=each.gpus_each)
        work = EncodeWork(
            corpus=corpus,
            mark=self._mark(corpus.parent),
            load=self.load,
            contract=encode.contract,
            dim=encode.dim,
            keep_float32=keep_float32,
        )
        return encode_on_ray(work, chunks, self.placement)

    def split(self, job: SplitJob, folder: Path, report: Callable[[int], None]) -> None:
        """A task a shard."""
        n_cpus = self._cpus_a_task(len(job.numbers()))
        split_on_ray(job, folder, report, mark=self._mark(folder.parent), n_cpus=n_cpus)

    def index(
        self, jobs: Sequence[IndexJob], trained: Trained
    ) -> Iterator[tuple[IndexJob, Output, bool]]:
        """A task a shard."""
        n_cpus = self._cpus_a_task(len(jobs))
        mark = self._mark(jobs[0].index_dir / STAGING_DIR)
        return index_on_ray(jobs, trained, mark=mark, n_cpus=n_cpus)

    def _cpus_a_task(self, n_tasks: int) -> int:
        nodes = settled_nodes(self._nodes)
        n_cpus = cpus_a_task(nodes, n_tasks)
        self._tell("task", nodes, n_cpus=n_cpus, n_gpus=0)
        return n_cpus

    def _tell(self, what: str, nodes: Sequence[Node], *, n_cpus: int, n_gpus: int) -> None:
        if wanting := lacks(nodes, n_cpus=n_cpus, n_gpus=n_gpus):
            self.note(f"Ray: the first {what} waits for {wanting}")

    def _mark(self, folder: Path) -> Mark:
        if folder not in self._marks:
            self._marks[folder] = leave_mark(folder)
        return self._marks[folder]


@contextmanager
def on_ray(
    *,
    model: str,
    device: Device,
    n_encoders: int | None,
    ray_address: str | None,
    dtype: str = "auto",
    note: Callable[[str], None],
) -> Iterator[OnRay]:
    """The executor of the cluster at `ray_address`, with `n_encoders` of `model`, or as it suits;
    `dtype` is what they compute in.

    Raises:
        UnavailableError: no cluster answers.
        ConfigError: it has nothing to give.
    """
    with joined(ray_address):
        placement = place_encoders(nodes_alive(), n_encoders, device)
        load = partial(load_model, model, placement, dtype)
        yield OnRay(load=load, placement=placement, note=note)


def load_model(model: str, placement: Placement, dtype: str = "auto") -> PassageEncode:
    """An actor's encoder."""
    from encoder_service.bulk import PassageEncoder  # noqa: PLC0415 -- torch, in an actor alone
    from encoder_service.model import load_encoder  # noqa: PLC0415 -- likewise

    # Ray's CPUs are a number that its operator chose; threads beyond the cores only get in the way
    n_threads = min(placement.cpus_each, len(os.sched_getaffinity(0)))
    return PassageEncoder(
        load_encoder(model, device=placement.device, dtype=dtype, n_threads=n_threads)
    )
