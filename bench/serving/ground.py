"""What all contestants stand on: one corpus, one recipe, one encoder, the same questions.

Rule: the router's index has several shards, and what runs in one process has the same passages,
codes and vectors as one: a recipe trains alike whatever the number of shards. Truth is exact search
over the stored vectors, found once and the same for all.
"""

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import faiss
import numpy as np

from bench.corpora import MODEL, SHARED, WORK, build, encoded_corpus, manifest_of
from bench.retrieve_server import Settings
from bench.serving.loads import BATCH, K, Kind
from deploy.bench.questions import draw
from encoder_service.bulk import PassageEncoder
from encoder_service.model import load_encoder
from encoder_service.source import find_model
from router.candidates import wanted_candidates
from shard_server.bare import BareIndex
from shoal.bench.target import Ids
from shoal.evaluation.files import read_queries
from shoal.formats.manifest import Segment
from shoal.formats.passages import PassageFile

N_QUESTIONS = 2_048
_COMPARED = 4
"""One in so many requests has its answer compared: parsing ids is the generator's own work."""
_PART = 256
_PART_ROWS = 8_192
_QUESTIONS = SHARED / "squad_tr_visible/queries.jsonl.gz"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """The common ground.

    Attributes:
        told: corpus, recipe and settings, for people.
        served: the index that Shoal serves, of several shards.
        single: the same as one shard, for faiss in process.
        retrieve: the same as one faiss file and a JSONL, with a `/retrieve` server's settings.
        texts: distinct questions; `vectors_file` holds their vectors.
        truth: what exact search finds, by kind of load and request.
    """

    told: str
    served: Path
    single: Path
    retrieve: Settings
    texts: tuple[str, ...]
    vectors_file: str
    truth: dict[Kind, dict[int, Ids]]


def prepare(corpus: str | None, queries: Path | None, n_shards: int) -> Ground:
    """Encodes, builds and writes what isn't there from an earlier run.

    Args:
        corpus: as of `shoal index build`, kept encoded under its name; None is WordNet's glosses
            beside the checkout, Python's own documentation where they aren't.
        queries: a file of questions; None is SQuAD's beside the checkout, else titles and first
            sentences of the corpus.
        n_shards: of the index that Shoal serves.
    """
    if corpus is None:
        name = "wordnet" if (SHARED / "wordnet").exists() else "python-docs"
        corpus = str(SHARED / name) if name == "wordnet" else name
    else:
        name = _name_of(corpus)
    encoded = encoded_corpus([corpus], name)
    served = build(encoded, n_shards=n_shards)
    manifest = manifest_of(served)
    single = build(encoded, n_shards=1)
    if manifest_of(single).recipe != manifest.recipe:  # the default follows a shard's size
        single = build(encoded, n_shards=1, recipe=manifest.recipe)
    texts, source = _questions(queries, single)
    vectors = PassageEncoder(load_encoder(MODEL)).encode_queries(texts)
    vectors_file = (WORK / "serving" / "questions.npy").resolve()
    vectors_file.parent.mkdir(parents=True, exist_ok=True)
    np.save(vectors_file, vectors)
    wanted = wanted_candidates(K, manifest.default_oversample)
    return Ground(
        told=f"{manifest.n_live:,} passages ({name}), {manifest.recipe}, n_probe "
        f"{manifest.default_n_probe}, {wanted} candidates rescored, k {K}; {len(texts):,} "
        f"distinct questions ({source}); all-MiniLM-L6-v2",
        served=served,
        single=single,
        retrieve=_single_file(single, name, wanted),
        texts=texts,
        vectors_file=str(vectors_file),
        truth=_truth(single, vectors),
    )


def _name_of(corpus: str) -> str:
    """As an index may be named; another file of the same name, or a changed one, has another."""
    path = Path(corpus)
    name = re.sub(r"[^a-z0-9_-]", "-", path.name.lower())
    if not path.exists():
        return name[:64]
    seen = path.stat()
    words = f"{path.resolve()} {seen.st_size} {seen.st_mtime_ns}"
    return f"{name[:55]}-{hashlib.sha256(words.encode()).hexdigest()[:8]}"


def _questions(queries: Path | None, index_dir: Path) -> tuple[tuple[str, ...], str]:
    if queries is None and not _QUESTIONS.exists():
        drawn = draw(str(index_dir), N_QUESTIONS, 0, "text")
        return drawn.texts, "titles and first sentences of the corpus, an easy sort"
    file = queries or _QUESTIONS
    texts = list(dict.fromkeys(read_queries(file).values()))
    step = max(1, len(texts) // N_QUESTIONS)
    return tuple(texts[::step][:N_QUESTIONS]), f"{file.parent.name}/{file.name}"


def _single_file(index_dir: Path, name: str, wanted: int) -> Settings:
    """The shard's codes and vectors as one faiss file, its passages as JSONL."""
    manifest = manifest_of(index_dir)
    (segment,) = manifest.shards[0].segments
    index_file = WORK / "serving" / f"{name}-{manifest.recipe.lower().replace(',', '-')}.faiss"
    corpus_file = WORK / "serving" / f"{name}.jsonl"
    vectors = faiss.read_index(str(index_dir / segment.files.vectors.path))
    if segment.files.index is None:  # Flat: the stored vectors are the index
        n_probe, k_factor, whole = 0, 0.0, vectors
    else:
        codes = faiss.read_index(str(index_dir / segment.files.index.path))
        n_probe = manifest.default_n_probe if manifest.n_lists else 0
        k_factor = wanted / K
        whole = faiss.IndexRefine(codes, vectors) if wanted else codes
    faiss.write_index(whole, str(index_file))
    with corpus_file.open("w", encoding="utf-8") as lines:
        for document in _documents(index_dir, segment):
            lines.write(json.dumps(document, ensure_ascii=False) + "\n")
    return Settings(
        index=index_file.resolve(),
        corpus=corpus_file.resolve(),
        model=find_model(MODEL).question,
        n_probe=n_probe,
        k_factor=k_factor,
    )


def _documents(index_dir: Path, segment: Segment) -> Iterator[dict[str, str]]:
    """The passages as such corpora have them, in the order of the index's rows."""
    file = PassageFile.open(index_dir / segment.files.passages.path)
    for start in range(0, segment.n_rows, _PART_ROWS):
        rows = np.arange(start, min(start + _PART_ROWS, segment.n_rows))
        columns = file.take(rows, ["id", "title", "text"])
        texts = [
            [column.data[a:b].decode() for a, b in pairwise(column.offsets.tolist())]
            for column in (columns["id"], columns["title"], columns["text"])
        ]
        for name, title, text in zip(*texts, strict=True):
            yield {"id": name, "contents": f'"{title}"\n{text}'}


def _truth(index_dir: Path, vectors: np.ndarray) -> dict[Kind, dict[int, Ids]]:
    index = BareIndex(index_dir)
    found: list[tuple[str, ...]] = []
    for start in range(0, len(vectors), _PART):
        segments, rows = index.exact(np.ascontiguousarray(vectors[start : start + _PART]), K)
        found += [
            tuple(index.passages(of_query, its_rows, ("id",))[0])
            for of_query, its_rows in zip(segments, rows, strict=True)
        ]
    alone: dict[int, Ids] = {i: (found[i],) for i in range(0, len(found), _COMPARED)}
    together: dict[int, Ids] = {
        i: tuple(found[i * BATCH : (i + 1) * BATCH])
        for i in range(0, len(found) // BATCH, _COMPARED)
    }
    return {"text": alone, "vector": alone, "batch": together}
