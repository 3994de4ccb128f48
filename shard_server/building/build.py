"""Build an index: read, encode, sample, train, partition, fill, commit.

Rule: every stage's output is a file, so that memory is bounded by the batch, what faiss trains
with, one shard's compressed index and some 16 bytes a passage, and so that a killed build goes on
where it was; CURRENT turns last of all.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt

from shard_server.building.chunk_file import open_vectors
from shard_server.building.encode import kept_bytes
from shard_server.building.executor import HERE, Executor
from shard_server.building.fill import adopt_segment, fill_shards
from shard_server.building.float32 import (
    Encoded,
    WholeTexts,
    adopt_float32,
    check_keepable,
    encode_keeping,
    float32_bytes,
)
from shard_server.building.partition import MAX_SHARDS
from shard_server.building.passage import Passage
from shard_server.building.progress import Progress, silent
from shard_server.building.recipe import Recipe, Target, choose_recipe, n_training_vectors
from shard_server.building.segments import SplitJob
from shard_server.building.space import room_for, room_to_read
from shard_server.building.stage import PassageEncode, StagedCorpus, stage_corpus
from shard_server.building.staging import Staging
from shard_server.building.train import (
    SAMPLE_FILE,
    TRAINED_FILE,
    Trained,
    draw_rows,
    open_sample,
    train_index,
    write_sample,
)
from shard_server.building.vectors import read_trained, write_index
from shard_server.building.workspace import Workspace, open_workspace
from shoal import __version__
from shoal.errors import ConfigError
from shoal.formats.manifest import (
    Float32Files,
    Manifest,
    Metric,
    Partition,
    Shard,
)
from shoal.formats.versions import commit_version
from shoal.index_name import INDEX_NAME, NAME_RULE


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildOptions:
    """What to build. `recipe` None takes the default for the corpus and `target`.

    `overwrite` builds the next version of an index that is already there. `chunk_size` is the
    passages that one call encodes; `max_training_vectors` bounds the sample. `restart` throws away
    what an interrupted build left, and begins anew.
    """

    name: str
    n_shards: int = 1
    recipe: str | None = None
    target: Target = "cpu"
    metric: Metric = "inner_product"
    seed: int = 0
    chunk_size: int = 1024
    max_training_vectors: int = 200_000
    overwrite: bool = False
    restart: bool = False


def build_index(
    index_dir: Path,
    passages: Iterable[Passage],
    encode: PassageEncode,
    options: BuildOptions,
    progress: Progress = silent,
    executor: Executor = HERE,
    keep_float32: WholeTexts | None = None,
) -> Manifest:
    """Build the index at `index_dir` and make it live; returns its manifest.

    `executor` says where encoding and filling run, and changes nothing else: what one left
    unfinished, another goes on with. With `keep_float32` the vectors are kept beside the index as
    they were before rounding, and those of whole texts with them.

    Raises:
        CorpusError: a fault in the corpus, with file:line.
        ConfigError: options that don't fit the corpus, the encoder or the folder.
        LockedError: another build is at work in `index_dir`.
        StorageError: the disk is full, read-only or not ours.
    """
    _check(options)
    if keep_float32 is not None:
        check_keepable(encode)
    with open_workspace(
        index_dir, overwrite=options.overwrite, restart=options.restart, progress=progress
    ) as workspace:
        _check_name(options, workspace)
        staging = workspace.staging
        with room_to_read(staging):
            staged = stage_corpus(passages, staging.folder / "corpus.arrow", progress)
        recipe = choose_recipe(
            options.recipe,
            n_passages=staged.n_passages,
            n_shards=options.n_shards,
            dim=encode.dim,
            target=options.target,
        )
        n_sample = _n_sample(staged, recipe, options)
        size = options.chunk_size
        kept = kept_bytes(staged, staging, encode, size, keep_float32=keep_float32 is not None)
        beside = float32_bytes(staged.n_passages, encode.dim, keep_float32)
        with room_for(
            staging, staged, recipe, n_sample=n_sample, dim=encode.dim, kept=kept, beside=beside
        ):
            encoded = encode_keeping(
                staged, staging, encode, keep_float32, chunk_size=size, executor=executor
            )
            vectors = open_vectors(encoded.path, encode.dim)
            trained = _train(staging, vectors, encoded.origin, recipe, n_sample, options)
            shards = _fill(workspace, staged, encoded, trained, options, executor)
            unrounded = adopt_float32(workspace, encoded.float32, staged.n_passages)
            manifest = _describe(
                workspace, staged, encode, options, recipe, trained, shards, unrounded
            )
            commit_version(index_dir, manifest)
    return manifest


def _check(options: BuildOptions) -> None:
    if not INDEX_NAME.fullmatch(options.name):
        raise ConfigError(f"{options.name!r} is no index name: {NAME_RULE}")
    if not 1 <= options.n_shards <= MAX_SHARDS:
        raise ConfigError(f"shards is {options.n_shards}; it must be 1 to {MAX_SHARDS}")
    if options.chunk_size < 1 or options.max_training_vectors < 1:
        raise ConfigError("chunk_size and max_training_vectors must be at least 1")


def _check_name(options: BuildOptions, workspace: Workspace) -> None:
    previous = workspace.previous
    if previous is not None and previous.name != options.name:
        raise ConfigError(
            f"{workspace.index_dir}: holds index {previous.name!r}; its next version can't be "
            f"called {options.name!r}"
        )


def _n_sample(staged: StagedCorpus, recipe: Recipe, options: BuildOptions) -> int:
    return n_training_vectors(
        recipe, n_passages=staged.n_passages, at_most=options.max_training_vectors
    )


def _first_ordinal(workspace: Workspace) -> int:
    return workspace.previous.next_ordinal if workspace.previous else 0


def _train(
    staging: Staging,
    vectors: npt.NDArray[np.float16],
    origin: Mapping[str, Any],
    recipe: Recipe,
    n_sample: int,
    options: BuildOptions,
) -> Trained | None:
    """The index that all segments share; None for Flat."""
    if not n_sample:
        return None
    n_rows, dim = vectors.shape
    sample, _ = staging.make(
        "sample",
        {"vectors": dict(origin), "n_sample": n_sample, "seed": options.seed},
        partial(write_sample, vectors, draw_rows(n_rows, n_sample, options.seed)),
    )

    def train(folder: Path) -> None:
        index = train_index(
            recipe,
            open_sample(sample.path(SAMPLE_FILE), dim),
            metric=options.metric,
            seed=options.seed,
            progress=staging.progress,
        )
        write_index(index, folder / TRAINED_FILE)

    inputs = {
        "sample": sample.files[SAMPLE_FILE].sha256,
        "recipe": recipe.text,
        "dim": dim,
        "metric": options.metric,
        "seed": options.seed,
        "faiss": faiss.__version__,
    }
    output, was_there = staging.make("train", inputs, train)
    if was_there:
        staging.progress("kept train", 1, 1)
    path = output.path(TRAINED_FILE)
    return Trained(
        index=read_trained(path, n_lists=recipe.n_lists, dim=dim),
        path=path,
        n_lists=recipe.n_lists,
        sha256=output.files[TRAINED_FILE].sha256,
        output=output,
    )


def _fill(
    workspace: Workspace,
    staged: StagedCorpus,
    encoded: Encoded,
    trained: Trained | None,
    options: BuildOptions,
    executor: Executor,
) -> tuple[Shard, ...]:
    job = SplitJob(
        staged=staged,
        vectors=encoded.path,
        dim=encoded.dim,
        n_shards=options.n_shards,
        metric=options.metric,
        first_ordinal=_first_ordinal(workspace),
    )
    segments = fill_shards(
        job, trained, workspace.staging, vectors_from=encoded.origin, executor=executor
    )
    return tuple(Shard(segments=adopt_segment(workspace, segment)) for segment in segments)


def _describe(
    workspace: Workspace,
    staged: StagedCorpus,
    encode: PassageEncode,
    options: BuildOptions,
    recipe: Recipe,
    trained: Trained | None,
    shards: tuple[Shard, ...],
    float32: tuple[Float32Files, ...],
) -> Manifest:
    output = trained.output if trained else None
    return Manifest(
        name=options.name,
        version=workspace.version,
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        release=__version__,
        n_rows=staged.n_passages,
        n_live=staged.n_passages,
        next_ordinal=_first_ordinal(workspace) + staged.n_passages,
        dim=encode.dim,
        metric=options.metric,
        recipe=recipe.text,
        n_lists=recipe.n_lists,
        default_n_probe=recipe.default_n_probe(staged.n_passages),
        seed=options.seed,
        n_training_vectors=_n_sample(staged, recipe, options),
        devices=recipe.devices,
        partition=Partition(n_shards=options.n_shards),
        trained=workspace.publish(output, TRAINED_FILE) if output else None,
        shards=shards,
        metadata_columns=staged.metadata_columns,
        encoder=encode.contract,
        float32=float32,
    )
