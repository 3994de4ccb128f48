"""Calibrate an index: queries, grid, promises, and a new version that records them.

Rule: the new version's files are the old one's; only its manifest is new, and CURRENT turns last.
The builder's lock is held throughout, so that what was measured is what the version is made of.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from deploy.calibration import questions
from deploy.calibration.choose import (
    CONFIDENCE,
    Point,
    default_point,
    front_of,
    points_of,
)
from deploy.calibration.measure import measure, open_shards
from deploy.calibration.questions import HeldOut, QuestionEncoder
from shard_server.building.progress import Progress, silent
from shoal import __version__
from shoal.errors import ConfigError
from shoal.formats.files import builder_lock
from shoal.formats.manifest import Calibration, Manifest, OperatingPoint
from shoal.formats.versions import commit_version, list_versions, load_manifest

MIN_QUERIES = 30
"""Fewer say nothing about a mean."""
_MAX_K = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrateOptions:
    """What to measure. `queries_file` None makes the queries from the index itself; the defaults
    are set to the cheapest setting that promises `target_recall` at the smallest of `ks`.
    """

    queries_file: Path | None = None
    ks: tuple[int, ...] = (10, 100)
    n_queries: int = 1000
    target_recall: float = 0.95
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibrated:
    """The new version's manifest, and all settings measured, by k and cheapest first."""

    manifest: Manifest
    points: dict[int, tuple[Point, ...]]
    default: Point
    kind_counts: dict[str, int]


def calibrate_index(
    index_dir: Path,
    options: CalibrateOptions,
    load_encoder: Callable[[str], QuestionEncoder],
    progress: Progress = silent,
) -> Calibrated:
    """Measure the live version of the index and make a calibrated copy of it live.

    Args:
        index_dir: the index's folder.
        options: what to measure.
        load_encoder: opens the encoder of that model; called where texts are to be encoded.
        progress: told of "exact" queries and of "measure" settings.

    Raises:
        ConfigError: an exact recipe, an encoder that is not the index's own, too few queries.
        CorpusError: a fault in the queries file.
        LockedError: a build is at work in `index_dir`.
    """
    manifest = load_manifest(index_dir)
    if manifest.recipe == "Flat":
        raise ConfigError(
            f"index {manifest.name!r} is Flat: every search is exact, and any target_recall is met"
        )
    with builder_lock(index_dir):
        manifest = load_manifest(index_dir)
        held_out = _queries(index_dir, manifest, options, load_encoder)
        if len(held_out.vectors) < MIN_QUERIES:
            raise ConfigError(
                f"{len(held_out.vectors)} queries are too few to measure with; "
                f"give at least {MIN_QUERIES}"
            )
        ks = _ks(options.ks, manifest.n_live - int(held_out.leaves_out_own))
        shards = open_shards(index_dir, manifest)
        cells = measure(shards, held_out, ks, progress)
        points = {k: points_of(cells, k, held_out.kinds) for k in ks}
        default = default_point(front_of(points[ks[0]]), options.target_recall)
        updated = _with_points(index_dir, manifest, options, held_out, points, default)
        commit_version(index_dir, updated)
    kind_counts = {
        name: int((held_out.kinds == kind).sum()) for kind, name in enumerate(held_out.kind_names)
    }
    return Calibrated(manifest=updated, points=points, default=default, kind_counts=kind_counts)


def _queries(
    index_dir: Path,
    manifest: Manifest,
    options: CalibrateOptions,
    load_encoder: Callable[[str], QuestionEncoder],
) -> HeldOut:
    path, n_queries = options.queries_file, options.n_queries
    if path is not None and path.suffix == ".npy":
        return questions.read_vectors(path, manifest.dim, n_queries)
    if manifest.encoder is None:
        if path is not None:
            raise ConfigError(
                f"index {manifest.name!r} holds bare vectors and has no encoder for {path}; "
                "give a .npy of query vectors, or leave out --queries"
            )
        return questions.from_stored(index_dir, manifest, n_queries=n_queries, seed=options.seed)
    # a fault in the file is told before the model takes its seconds
    texts = None if path is None else questions.read_texts(path, n_queries)
    encoder = load_encoder(manifest.encoder.model)
    questions.check_encoder(manifest, encoder)
    if texts is not None:
        return questions.from_texts(texts, encoder)
    return questions.from_passages(
        index_dir, manifest, encoder, n_queries=n_queries, seed=options.seed
    )


def _ks(wanted: Sequence[int], n_there: int) -> tuple[int, ...]:
    for k in wanted:
        if not 1 <= k <= _MAX_K:
            raise ConfigError(f"k is {k}; it must be 1 to {_MAX_K}")
    ks = tuple(sorted({k for k in wanted if k <= n_there}))
    if not ks:
        raise ConfigError(f"there are {n_there} passages to find, fewer than k={min(wanted)}")
    return ks


def _with_points(
    index_dir: Path,
    manifest: Manifest,
    options: CalibrateOptions,
    held_out: HeldOut,
    points: dict[int, tuple[Point, ...]],
    default: Point,
) -> Manifest:
    """The next version: the same files, other settings. Validated as a whole."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    operating_points = [
        OperatingPoint(
            n_probe=point.n_probe, oversample=point.oversample, recall=point.promised, k=k
        )
        for k in sorted(points)
        for point in front_of(points[k])
    ]
    changes = {
        "version": max(list_versions(index_dir)) + 1,
        "created_at": now,
        "release": __version__,
        "default_n_probe": default.n_probe,
        "default_oversample": default.oversample,
        "operating_points": [point.model_dump() for point in operating_points],
        "calibration": Calibration(
            queries=held_out.source,
            n_queries=len(held_out.vectors),
            confidence=CONFIDENCE,
            target_recall=options.target_recall,
            created_at=now,
        ).model_dump(),
    }
    return Manifest.model_validate(manifest.model_dump() | changes)
