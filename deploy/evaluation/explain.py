"""The waterfall of a running cluster: from exact float32 search, step by step, to what it answered.

Levels, each with one thing changed: whole texts in float32 → cut as the index cuts them → rounded
to float16 → the vectors that the index stores → its codes alone over all lists → n_probe →
candidates rescored → each shard its share of them → the shards and the n_probe of each call as it
was answered → the answers themselves. The first three need float32 vectors, which the index keeps
or which are encoded again; an exact search has no codes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from deploy.calibration.measure import open_shards
from deploy.evaluation import float32
from deploy.evaluation.exact import exact_search
from deploy.evaluation.ground import Ground, check_served
from deploy.evaluation.served_steps import Engine, Ranked, Settings
from deploy.evaluation.waterfall import Level
from shard_server.building.stored import StoredIndex
from shoal.answers import Outcome
from shoal.contract import EncoderContract
from shoal.evaluation.metrics import Metric, parse_metrics, values_by_question
from shoal.evaluation.rankings import Found
from shoal.evaluation.score import Call, EvalReport
from shoal.evaluation.sets import QuestionSet
from shoal.formats.manifest import Manifest
from shoal.vectors import Matrix

Progress = Callable[[str, int, int | None], None]


class OfflineEncoder(float32.Reference, Protocol):
    """The index's model, here; as `float32.Reference` for passages."""

    contract: EncoderContract

    def encode_queries(self, texts: Sequence[str]) -> Matrix:
        """Vectors (n, dim) of questions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoders:
    """The index's encoder as it serves, and what opens it reading on where it would cut."""

    cutting: OfflineEncoder
    whole: Callable[[], OfflineEncoder]


@dataclass(slots=True, kw_only=True)
class _Ladder:
    """Collects levels: what was found by position becomes each question's values."""

    metrics: Sequence[Metric]
    questions: QuestionSet
    passages: Sequence[Found]
    levels: list[Level] = field(default_factory=list)

    def add(self, name: str, change: str, ranked: Ranked | npt.NDArray[np.int64]) -> None:
        rankings = {
            query_id: tuple(self.passages[position] for position in positions)
            for query_id, positions in zip(self.questions.asked, ranked, strict=True)
        }
        self.levels.append(
            Level(
                name=name,
                change=change,
                values=values_by_question(self.metrics, self.questions, rankings),
            )
        )


def explain(
    ground: Ground,
    questions: QuestionSet,
    report: EvalReport,
    encoders: Encoders,
    *,
    exact: bool,
    progress: Progress,
) -> list[Level]:
    """The levels, the served answer last.

    Args:
        ground: the index that was asked. Without a folder for float32 vectors those are taken that
            it keeps, and where it keeps none the stored vectors come first.
        questions: what was asked.
        report: what the cluster scored.
        encoders: the index's.
        exact: whether the cluster was asked for an exact search.
        progress: told of what is encoded and of "search" levels.

    Raises:
        ConfigError: another version was asked.
        IndexFormatError: a file of it does not verify.
    """
    manifest = ground.manifest
    check_served(ground.index_dir, manifest, report.index, report.version)
    encoder = encoders.cutting
    texts = [questions.queries[query_id] for query_id in questions.asked]
    query_vectors = encoder.encode_queries(texts)
    engine = _engine(ground)
    metrics = parse_metrics(tuple(report.metrics))
    ladder = _Ladder(metrics=metrics, questions=questions, passages=ground.passages)
    if ground.float32_dir is not None or manifest.float32:
        whole = encoders.whole()
        if ground.float32_dir is not None:
            vectors = float32.encode_again(
                ground.float32_dir, ground.passages, encoder, whole, progress
            )
        else:
            vectors = float32.open_kept(ground.index_dir, manifest)
        whole_queries = whole.encode_queries(texts)
        _unrounded(ladder, vectors, whole_queries, query_vectors, report.k, manifest)
    ladder.add(
        "stored vectors", "encoder's device and dtype at the build",
        exact_search(query_vectors, engine.stored, report.k, manifest.metric),
    )  # fmt: skip
    is_exact = exact or manifest.recipe == "Flat"
    settings = _settings(report)
    if not is_exact:
        _compressed(ladder, engine, query_vectors, settings, manifest)
    ladder.add(
        "as answered", "shards that were missing, n_probe that was shrunk",
        _as_answered(engine, query_vectors, report.calls, settings, exact=is_exact),
    )  # fmt: skip
    values = dict(report.scored.values)
    ladder.levels.append(Level(name="served", change="served encoder and wire", values=values))
    return ladder.levels


def _unrounded(
    ladder: _Ladder,
    vectors: float32.Float32Vectors,
    whole_queries: Matrix,
    query_vectors: Matrix,
    k: int,
    manifest: Manifest,
) -> None:
    metric = manifest.metric
    n_cut, n_all = len(vectors.whole_rows), len(vectors.cut)
    whole = exact_search(whole_queries, vectors.of_whole_texts(), k, metric)
    ladder.add("float32, whole texts", "", whole)
    cut = exact_search(query_vectors, vectors.cut, k, metric)
    ladder.add("float32, cut texts", f"truncation ({n_cut:,} of {n_all:,} passages cut)", cut)
    rounded = vectors.cut.astype(np.float16)
    ladder.add("float16", "float16 storage", exact_search(query_vectors, rounded, k, metric))


def _compressed(
    ladder: _Ladder, engine: Engine, query_vectors: Matrix, settings: Settings, manifest: Manifest
) -> None:
    k = settings.k
    ladder.add(
        "codes alone", f"compression ({manifest.recipe}), not rescored",
        engine.by_codes(query_vectors, k, manifest.n_lists),
    )  # fmt: skip
    if manifest.n_lists:
        ladder.add(
            "codes alone, nearest lists", f"n_probe {settings.n_probe} of {manifest.n_lists:,}",
            engine.by_codes(query_vectors, k, settings.n_probe),
        )  # fmt: skip
    if settings.candidates:
        ladder.add(
            "rescored", f"rescoring {settings.candidates:,} candidates",
            engine.rescored(query_vectors, settings),
        )  # fmt: skip
        ladder.add(
            "rescored in shards", f"candidates shared among {len(engine.shards)} shards",
            engine.in_shares(query_vectors, settings),
        )  # fmt: skip


def _as_answered(
    engine: Engine,
    query_vectors: Matrix,
    calls: Sequence[Call],
    settings: Settings,
    *,
    exact: bool,
) -> Ranked:
    """Each call again with the shards that answered it and the n_probe that it used."""
    ranked: Ranked = []
    for call in calls:
        own = query_vectors[len(ranked) : len(ranked) + len(call.query_ids)]
        there = [each.shard for each in call.served.shards if each.outcome is Outcome.OK]
        if exact:
            ranked += engine.exactly(own, settings.k, there)
            continue
        used = Settings(
            k=settings.k, n_probe=call.served.n_probe, candidates=call.served.candidates
        )
        ranked += engine.in_shares(own, used, there)
    return ranked


def _engine(ground: Ground) -> Engine:
    stored = ground.stored
    return Engine(
        shards=open_shards(ground.index_dir, stored.manifest),
        stored=_vectors_of(stored),
        ordinals=np.sort(np.concatenate([file.ordinals for file in stored.passage_files])),
    )


def _vectors_of(stored: StoredIndex) -> npt.NDArray[np.float16]:
    """All stored vectors (n, dim) by ordinal, in memory once."""
    vectors = np.empty((stored.manifest.n_rows, stored.manifest.dim), dtype=np.float16)
    start = 0
    for chunk in stored.vector_chunks():
        vectors[start : start + len(chunk)] = chunk
        start += len(chunk)
    return vectors


def _settings(report: EvalReport) -> Settings:
    """How the cluster means to search; single calls may have probed fewer lists."""
    first = report.calls[0].served
    return Settings(
        k=report.k,
        n_probe=first.n_probe_wanted or first.n_probe,
        candidates=report.candidates,
    )
