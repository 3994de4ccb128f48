"""Build an index: read, encode, train, fill, commit.

Rule: every stage's output is a file, so that memory is bounded by the batch, the training sample,
one shard's compressed index and some 16 bytes a passage; CURRENT turns last of all, and a failure
before that leaves nothing behind.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import faiss
import numpy as np
import numpy.typing as npt

from shard_server.building.fill import FilledSegment, fill_shards
from shard_server.building.partition import MAX_SHARDS
from shard_server.building.passage import Passage
from shard_server.building.progress import Progress, silent
from shard_server.building.recipe import Recipe, Target, choose_recipe, n_training_vectors
from shard_server.building.stage import (
    PassageEncode,
    StagedCorpus,
    encode_corpus,
    open_vectors,
    stage_corpus,
)
from shard_server.building.train import draw_sample, train_index
from shard_server.building.vectors import write_index
from shard_server.building.workspace import Workspace, open_workspace
from shoal import __version__
from shoal.errors import ConfigError
from shoal.formats.manifest import (
    INDEX_NAME,
    FileEntry,
    Manifest,
    Metric,
    Partition,
    Segment,
    SegmentFiles,
    Shard,
)
from shoal.formats.versions import commit_version


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildOptions:
    """What to build. `recipe` None takes the default for the corpus and `target`.

    `overwrite` builds the next version of an index that is already there. `chunk_size` is the
    passages that one call encodes; `max_training_vectors` bounds the sample held in memory.
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


@dataclass(frozen=True, slots=True, kw_only=True)
class _Training:
    """How the index was trained; `index` and `file` are None for Flat."""

    recipe: Recipe
    n_vectors: int
    index: faiss.Index | None
    file: FileEntry | None


def build_index(
    index_dir: Path,
    passages: Iterable[Passage],
    encode: PassageEncode,
    options: BuildOptions,
    progress: Progress = silent,
) -> Manifest:
    """Build the index at `index_dir` and make it live; returns its manifest.

    Raises:
        CorpusError: a fault in the corpus, with file:line.
        ConfigError: options that don't fit the corpus, the encoder or the folder.
        LockedError: another build is at work in `index_dir`.
        StorageError: the disk is full, read-only or not ours.
    """
    _check(options)
    with open_workspace(index_dir, overwrite=options.overwrite) as workspace:
        _check_name(options, workspace)
        staged = stage_corpus(passages, workspace.staging / "corpus.arrow", progress)
        recipe = choose_recipe(
            options.recipe,
            n_passages=staged.n_passages,
            n_shards=options.n_shards,
            dim=encode.dim,
            target=options.target,
        )
        path = workspace.staging / "vectors.f16"
        encode_corpus(staged, path, encode, chunk_size=options.chunk_size, progress=progress)
        vectors = open_vectors(path, encode.dim)
        training = _train(workspace, vectors, recipe, options, progress)
        previous = workspace.previous
        first_ordinal = previous.next_ordinal if previous else 0
        segments = fill_shards(
            staged,
            vectors,
            training.index,
            workspace.staging,
            n_shards=options.n_shards,
            metric=options.metric,
            first_ordinal=first_ordinal,
            progress=progress,
        )
        shards = tuple(_adopt(workspace, segment) for segment in segments)
        manifest = _describe(
            workspace, staged, encode, options, training, shards, first_ordinal=first_ordinal
        )
        commit_version(index_dir, manifest)
    return manifest


def _check(options: BuildOptions) -> None:
    if not INDEX_NAME.fullmatch(options.name):
        raise ConfigError(f"index name {options.name!r} must match {INDEX_NAME.pattern}")
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


def _train(
    workspace: Workspace,
    vectors: npt.NDArray[np.float16],
    recipe: Recipe,
    options: BuildOptions,
    progress: Progress,
) -> _Training:
    n_vectors = n_training_vectors(
        recipe, n_passages=len(vectors), at_most=options.max_training_vectors
    )
    if not n_vectors:
        return _Training(recipe=recipe, n_vectors=0, index=None, file=None)
    sample = draw_sample(vectors, n_vectors, options.seed)
    index = train_index(recipe, sample, metric=options.metric, seed=options.seed, progress=progress)
    path = workspace.staging / "trained.faiss"
    write_index(index, path)
    return _Training(recipe=recipe, n_vectors=n_vectors, index=index, file=workspace.adopt(path))


def _adopt(workspace: Workspace, segment: FilledSegment) -> Shard:
    if not segment.n_rows:
        return Shard(segments=())
    folder = segment.folder
    files = SegmentFiles(
        index=workspace.adopt(folder / "index.faiss") if segment.has_index else None,
        vectors=workspace.adopt(folder / "vectors.faiss"),
        passages=workspace.adopt(folder / "passages.arrow"),
        ids=workspace.adopt(folder / "ids.arrow"),
    )
    return Shard(segments=(Segment(n_rows=segment.n_rows, n_live=segment.n_rows, files=files),))


def _describe(
    workspace: Workspace,
    staged: StagedCorpus,
    encode: PassageEncode,
    options: BuildOptions,
    training: _Training,
    shards: tuple[Shard, ...],
    *,
    first_ordinal: int,
) -> Manifest:
    return Manifest(
        name=options.name,
        version=workspace.version,
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        release=__version__,
        n_rows=staged.n_passages,
        n_live=staged.n_passages,
        next_ordinal=first_ordinal + staged.n_passages,
        dim=encode.dim,
        metric=options.metric,
        recipe=training.recipe.text,
        n_lists=training.recipe.n_lists,
        default_n_probe=training.recipe.default_n_probe,
        seed=options.seed,
        n_training_vectors=training.n_vectors,
        devices=training.recipe.devices,
        partition=Partition(n_shards=options.n_shards),
        trained=training.file,
        shards=shards,
        metadata_columns=staged.metadata_columns,
        encoder=encode.contract,
    )
