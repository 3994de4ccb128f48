"""Add passages to an index: a new version of the live one's segments and one more a shard.

Rule: nothing that exists is rewritten. The live version's trained index, partition and encoder are
the new one's; what the corpus asks beyond them is refused. CURRENT turns last of all.
"""

import json
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from shard_server.building.encode import kept_bytes
from shard_server.building.fill import FilledSegment, adopt_segment, fill_shards
from shard_server.building.float32 import (
    Encoded,
    WholeTexts,
    adopt_float32,
    check_keepable,
    encode_keeping,
    float32_bytes,
)
from shard_server.building.known import KnownPassage, deleted_rows, find_known
from shard_server.building.passage import Passage
from shard_server.building.progress import Progress, silent
from shard_server.building.recipe import Recipe
from shard_server.building.segments import SplitJob
from shard_server.building.space import room_for, room_to_read
from shard_server.building.stage import PassageEncode, StagedCorpus, stage_corpus
from shard_server.building.staging import Staging
from shard_server.building.train import Trained
from shard_server.building.vectors import read_trained
from shard_server.building.workspace import Workspace, open_workspace
from shoal import __version__
from shoal.contract import lowest_cosine
from shoal.errors import ConfigError, CorpusError
from shoal.formats.deleted import write_deleted
from shoal.formats.manifest import Float32Files, Manifest, Segment, Shard
from shoal.formats.versions import check_file, commit_version, read_current

CHUNK_SIZE = 1_024
"""Passages that one call encodes."""
_BITMAP_FILE = "deleted.bits"


def add_passages(
    index_dir: Path,
    passages: Iterable[Passage],
    encode: PassageEncode,
    progress: Progress = silent,
    *,
    replace_known: bool = False,
    restart: bool = False,
    chunk_size: int = CHUNK_SIZE,
    keep_float32: WholeTexts | None = None,
) -> Manifest:
    """Make the live version with `passages` added the live one; returns its manifest.

    With `replace_known`, a passage whose id the index has supersedes the one that is there. An
    interrupted addition of the same passages is gone on with, unless `restart`. `chunk_size` is the
    passages that one call encodes. An index that keeps float32 vectors keeps them of all passages
    or of none: without `keep_float32` the new version has none.

    Raises:
        CorpusError: a fault in the corpus, with file:line; an id that the index has already.
        ConfigError: an encoder that is not the index's.
        IndexFormatError: there is no index, or one of its files doesn't verify.
        LockedError: another build is at work in `index_dir`.
        StorageError: the disk is full, read-only or not ours.
    """
    read_current(index_dir)  # its error tells what to do where there is no index
    with open_workspace(index_dir, overwrite=True, restart=restart, progress=progress) as workspace:
        live = workspace.previous
        assert live is not None, "CURRENT was read"
        check_encoder(live, encode)
        trained = _read_trained(index_dir, live)
        staged, known = _stage(workspace, live, passages)
        if known and not replace_known:
            raise _known_already(live, known)
        if known and live.trained is not None and not live.n_lists:
            raise ConfigError(
                f"recipe {live.recipe!r} can't leave passages out of a search, so none can be "
                "replaced; build the index again"
            )
        staging = workspace.staging
        whole = keep_float32 if live.float32 else None
        if whole is not None:
            check_keepable(encode)
        recipe = Recipe.parse(live.recipe, live.dim)
        n_there = kept_bytes(staged, staging, encode, chunk_size, keep_float32=whole is not None)
        beside = float32_bytes(staged.n_passages, live.dim, whole)
        with room_for(
            staging, staged, recipe, n_sample=0, dim=live.dim, kept=n_there, beside=beside
        ):
            encoded = encode_keeping(staged, staging, encode, whole, chunk_size=chunk_size)
            segments = _fill(staging, live, staged, encoded, trained)
            kept = _supersede(workspace, live, known)
            added = adopt_float32(workspace, encoded.float32, staged.n_passages)
            float32 = (*live.float32, *added) if added else ()
            manifest = _extend(workspace, live, kept, staged, segments, float32)
            commit_version(index_dir, manifest)
    return manifest


def check_encoder(live: Manifest, encode: PassageEncode) -> None:
    """Refuse an encoder that doesn't make the index's vectors: by fingerprint, then by probes.

    Raises:
        ConfigError: naming both.
    """
    ours = live.encoder.passage.fingerprint if live.encoder else ""
    theirs = encode.contract.passage.fingerprint if encode.contract else ""
    if ours != theirs:
        built = f"encoder {ours[:12]} ({live.encoder.model})" if live.encoder else "bare vectors"
        given = f"{theirs[:12]} ({encode.contract.model})" if encode.contract else "bare vectors"
        raise ConfigError(
            f"index {live.name!r} is of {built}, the passages would be of {given}; add with the "
            "encoder that built it, or build a new index"
        )
    if encode.dim != live.dim:
        raise ConfigError(
            f"index {live.name!r} has {live.dim} dimensions, the encoder makes {encode.dim}"
        )
    if live.encoder is None or not live.encoder.passage.probe_texts:
        return
    texts = live.encoder.passage.probe_texts
    cosine = lowest_cosine(live.encoder.passage, encode([""] * len(texts), texts))
    if not cosine >= live.encoder.min_cosine:
        raise ConfigError(
            f"index {live.name!r}: the encoder's probe vectors have cosine {cosine:.4f} to those "
            f"that the index recorded, {live.encoder.min_cosine} is asked; it is not the same model"
        )


def _read_trained(index_dir: Path, live: Manifest) -> Trained | None:
    """The trained, empty index that the segments share; None for Flat."""
    if live.trained is None:
        return None
    path = check_file(index_dir, live.trained)
    index = read_trained(path, n_lists=live.n_lists, dim=live.dim)
    return Trained(index=index, path=path, n_lists=live.n_lists, sha256=live.trained.sha256)


def _stage(
    workspace: Workspace, live: Manifest, passages: Iterable[Passage]
) -> tuple[StagedCorpus, tuple[KnownPassage, ...]]:
    """The corpus, checked against itself and the index, and which of it the index has."""
    path = workspace.staging.folder / "corpus.arrow"
    with room_to_read(workspace.staging):
        staged = stage_corpus(passages, path, workspace.staging.progress)
    known = find_known(workspace.index_dir, live, staged)
    columns = dict(live.metadata_columns)
    for name, kind in staged.metadata_columns.items():
        before = columns.setdefault(name, kind)
        if before != kind and (before, kind) != ("double", "int64"):
            raise CorpusError(
                f"{_first_with(staged, name)}: metadata {name!r} is {kind} in this corpus and "
                f"{before} in version {live.version} of index {live.name!r}; a column has one type"
            )
    return replace(staged, metadata_columns=dict(sorted(columns.items()))), known


def _known_already(live: Manifest, known: tuple[KnownPassage, ...]) -> CorpusError:
    first = known[0]
    others = f", and {len(known) - 1:,} more are" if len(known) > 1 else ""
    return CorpusError(
        f"{first.where}: id {first.id!r} is in version {live.version} of index {live.name!r} "
        f"already{others}; leave out what is there, or --replace it"
    )


def _fill(
    staging: Staging,
    live: Manifest,
    staged: StagedCorpus,
    encoded: Encoded,
    trained: Trained | None,
) -> list[FilledSegment]:
    job = SplitJob(
        staged=staged,
        vectors=encoded.path,
        dim=live.dim,
        n_shards=len(live.shards),
        metric=live.metric,
        first_ordinal=live.next_ordinal,
    )
    return fill_shards(job, trained, staging, vectors_from=encoded.origin)


def _supersede(
    workspace: Workspace, live: Manifest, known: tuple[KnownPassage, ...]
) -> tuple[Shard, ...]:
    """The live version's shards with the `known` rows deleted; files are shared but the bitmap."""
    dead: dict[tuple[int, int], list[int]] = {}
    for passage in known:
        dead.setdefault((passage.shard, passage.segment), []).append(passage.row)
    return tuple(
        Shard(
            segments=tuple(
                _without(workspace, segment, dead[number, place])
                if (number, place) in dead
                else segment
                for place, segment in enumerate(shard.segments)
            )
        )
        for number, shard in enumerate(live.shards)
    )


def _without(workspace: Workspace, segment: Segment, rows: list[int]) -> Segment:
    before = deleted_rows(workspace.index_dir, segment)
    deleted = np.zeros(segment.n_rows, dtype=np.bool_) if before is None else before.copy()
    deleted[rows] = True
    inputs = {"vectors": segment.files.vectors.sha256, "rows": np.flatnonzero(deleted).tolist()}
    output, _ = workspace.staging.make(
        "deleted", inputs, lambda folder: write_deleted(folder / _BITMAP_FILE, deleted)
    )
    files = segment.files.model_copy(update={"deleted": workspace.publish(output, _BITMAP_FILE)})
    return Segment(n_rows=segment.n_rows, n_live=int((~deleted).sum()), files=files)


def _first_with(staged: StagedCorpus, name: str) -> str:
    """Where the first passage with metadata of that name stands."""
    for batch in staged.batches():
        texts, places = (batch.column(n).to_pylist() for n in ("metadata", "where"))
        for text, where in zip(texts, places, strict=True):
            if text and name in json.loads(text):
                return str(where)
    raise AssertionError("the column was met in this corpus")


def _extend(
    workspace: Workspace,
    live: Manifest,
    kept: tuple[Shard, ...],
    staged: StagedCorpus,
    segments: Iterable[FilledSegment],
    float32: tuple[Float32Files, ...],
) -> Manifest:
    shards = tuple(
        Shard(segments=(*shard.segments, *adopt_segment(workspace, segment)))
        for shard, segment in zip(kept, segments, strict=True)
    )
    changes = {
        "version": workspace.version,
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "release": __version__,
        "n_rows": live.n_rows + staged.n_passages,
        "n_live": sum(shard.n_live for shard in shards),
        "next_ordinal": live.next_ordinal + staged.n_passages,
        "shards": shards,
        "metadata_columns": staged.metadata_columns,
        "float32": float32,
    }
    return Manifest.model_validate({**dict(live), **changes})
