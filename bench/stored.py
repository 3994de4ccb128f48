"""Indexes of stored vectors by recipe, each built once, and real questions to ask them.

Rule: what is measured was made by the real builder; encoding is no part of it, so the vectors of an
earlier run are imported as anyone's would be.
"""

from pathlib import Path

import numpy as np

from bench.corpora import MODEL, SHARED, WORK, encoded_corpus, manifest_of
from deploy.calibration.measure import open_shards
from deploy.calibration.questions import HeldOut
from deploy.cli.sources import open_source
from encoder_service.bulk import PassageEncoder
from encoder_service.model import load_encoder
from shard_server.building import BuildOptions, build_index
from shard_server.index import ShardIndex
from shoal.evaluation.files import read_queries
from shoal.vectors import Matrix

NAME = "wordnet"
QUESTIONS = SHARED / "squad_tr_visible/queries.jsonl.gz"


def passage_vectors() -> Path:
    """WordNet's glosses as a .npy; encoded, some half an hour, where no run has kept them."""
    path = WORK / f"{NAME}.npy"
    if not path.exists():
        encoded_corpus([str(SHARED / NAME)], NAME)
    return path


def question_vectors() -> Matrix:
    """Real questions about something else (SQuAD's), float32 (n, dim)."""
    path = WORK / "questions.npy"
    if not path.exists():
        texts = tuple(dict.fromkeys(read_queries(QUESTIONS).values()))
        np.save(path, PassageEncoder(load_encoder(MODEL)).encode_queries(texts))
    vectors: Matrix = np.load(path).astype(np.float32, copy=False)
    return vectors


def built(vectors: Path, recipe: str, *, n_shards: int, folder: Path) -> Path:
    """An index of the vectors under `folder`; one that an earlier run built is used again."""
    tag = f"{vectors.stem}-{n_shards}-{recipe.lower().replace(',', '-')}"
    index_dir = folder / tag
    if not (index_dir / "CURRENT").exists():
        print(f"building {tag}", flush=True)
        source = open_source(
            corpus=(), vectors=str(vectors), from_index=None, model=MODEL, device="cpu"
        )
        options = BuildOptions(name=vectors.stem, n_shards=n_shards, recipe=recipe)
        build_index(index_dir, source.passages, source.encode, options)
    return index_dir


def opened(index_dir: Path) -> tuple[ShardIndex, ...]:
    """Every shard, on the CPU, warm."""
    shards = open_shards(index_dir, manifest_of(index_dir))
    for shard in shards:
        shard.warm_up()
    return shards


def spread(questions: Matrix, n_queries: int) -> Matrix:
    """Some of the questions, evenly from all of them."""
    step = max(1, len(questions) // n_queries)
    return np.ascontiguousarray(questions[::step][:n_queries])


def held_out(questions: Matrix) -> HeldOut:
    """The questions as calibration takes them: none has a passage of its own."""
    none = np.full(len(questions), -1, dtype=np.int64)
    return HeldOut(
        source="file",
        vectors=questions,
        own=none,
        kinds=np.zeros(len(questions), dtype=np.int64),
        kind_names=("questions",),
    )
