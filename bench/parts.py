"""The served cluster beside its own parts, in one run: `make bench-parts`.

Each figure is a ratio, so that it means something on another machine: what the cluster does, over
what its dearest part does alone on the same cores. Queries are distinct and the encoder's cache is
off. The index is IVF-PQ (the default recipe) of WordNet's glosses where the test sets lie beside
the checkout, of `--corpus` otherwise.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import faiss
import grpc
import numpy as np
import numpy.typing as npt

from bench.cluster import served
from bench.corpora import MODEL, SHARED, WORK, build, encoded_corpus, manifest_of, write_json
from bench.echo import calls_per_s, echo_server
from encoder_service.bulk import PassageEncoder
from encoder_service.model import DualEncoder, load_encoder
from encoder_service.roles import Role
from router.candidates import shard_candidates, wanted_candidates
from shoal.bench.load import run_load
from shoal.bench.plan import LoadPlan
from shoal.client import Client
from shoal.evaluation.files import read_queries
from shoal.formats.manifest import Manifest, Segment
from shoal.requests import SearchOptions, many_queries, search_request
from shoal.v1 import search_pb2 as pb
from shoal.v1 import search_pb2_grpc

Vectors = npt.NDArray[np.float32]

K = 10
BATCH = 256
NO_CACHE = {"SHOAL_ENCODER_SERVICE__CACHE_ENTRIES": "0"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One figure: ours, what it stands beside, and the ratio that is wanted."""

    what: str
    ours: float
    beside: float
    unit: str
    wanted: str

    @property
    def ratio(self) -> float:
        """Ours over what it stands beside; the difference for milliseconds."""
        return self.ours - self.beside if self.unit == "ms" else self.ours / self.beside

    def line(self) -> str:
        """A row of the table."""
        sign = "+" if self.unit == "ms" else "x"
        return (
            f"| {self.what} | {self.ours:,.1f} {self.unit} | {self.beside:,.1f} {self.unit} "
            f"| {sign}{self.ratio:.2f} | {self.wanted} |"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Questions:
    """Distinct questions: texts, their vectors (n, dim), and where the vectors lie as a file."""

    texts: tuple[str, ...]
    vectors: Vectors
    file: Path


def main() -> None:
    """Measures everything and prints one table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--corpus", default=str(SHARED / "wordnet"))
    parser.add_argument(
        "--queries", type=Path, default=SHARED / "squad_tr_visible/queries.jsonl.gz"
    )
    parser.add_argument("--seconds", type=float, default=8.0, help="length of each load run")
    parser.add_argument("--only", choices=("text", "vector", "batch", "lone"), action="append")
    arguments = parser.parse_args()
    chosen = set(arguments.only or ("text", "vector", "batch", "lone"))
    corpus = encoded_corpus([arguments.corpus], Path(arguments.corpus).name)
    dual = load_encoder(MODEL)
    encoder = PassageEncoder(dual)
    questions = _questions(arguments.queries, encoder)
    folders = {n_shards: build(corpus, n_shards=n_shards) for n_shards in (1, 2, 4)}
    parts: dict[str, Callable[[], list[Row]]] = {
        "text": lambda: _text(folders[2], questions, encoder, arguments.seconds),
        "vector": lambda: _vector(folders[4], questions, arguments.seconds),
        "batch": lambda: [_batch(folders[n], questions, arguments.seconds) for n in (1, 4)],
        "lone": lambda: [_lone(folders[n], questions, dual, arguments.seconds) for n in (2, 4)],
    }
    rows = [row for name, measure in parts.items() if name in chosen for row in measure()]
    manifest = manifest_of(folders[4])
    print(
        f"\n{manifest.n_live:,} passages, {manifest.recipe}, n_probe {manifest.default_n_probe}\n"
    )
    print("| | Shoal | beside | ratio | wanted |\n|---|--:|--:|--:|--:|")
    for row in rows:
        print(row.line())
    write_json(WORK / "parts.json", [
        {"what": r.what, "ours": r.ours, "beside": r.beside, "unit": r.unit, "ratio": r.ratio}
        for r in rows
    ])  # fmt: skip


def _questions(path: Path, encoder: PassageEncoder) -> Questions:
    texts = tuple(dict.fromkeys(read_queries(path).values()))
    file = WORK / "questions.npy"
    if not file.exists():
        np.save(file, encoder.encode_queries(texts))
    return Questions(texts=texts, vectors=np.load(file), file=file)


def _text(folder: Path, questions: Questions, encoder: PassageEncoder, seconds: float) -> list[Row]:
    alone = _rate(encoder.encode_queries, questions.texts, seconds)
    with served(folder, **NO_CACHE) as target:
        load = run_load(LoadPlan(
            target=target, clients=64, duration_s=seconds, texts=questions.texts))  # fmt: skip
    _refuse_errors(load.errors)
    return [Row(what="text, 64 clients, 2 shards, beside the encoder alone with full batches",
                ours=load.queries_per_s, beside=alone, unit="q/s", wanted="0.8")]  # fmt: skip


def _vector(folder: Path, questions: Questions, seconds: float) -> list[Row]:
    with served(folder) as target:
        load = run_load(LoadPlan(
            target=target, clients=64, duration_s=seconds,
            vectors_file=str(questions.file)))  # fmt: skip
        with Client(target) as client:
            answer = client.search(vector=questions.vectors[0], k=K)
        request = search_request(many_queries(questions.vectors[:1]), SearchOptions())
        n_reply_bytes = _reply_bytes(target, request)
    _refuse_errors(load.errors)
    assert len(answer.hits) == K
    with echo_server(n_reply_bytes) as target:
        echo = calls_per_s(target, request.SerializeToString(), clients=64, duration_s=seconds)
    return [Row(what="vector, 64 clients, 4 shards, beside a bare grpc.aio echo of the same sizes",
                ours=load.queries_per_s, beside=echo, unit="q/s", wanted="0.4")]  # fmt: skip


def _batch(folder: Path, questions: Questions, seconds: float) -> Row:
    manifest = manifest_of(folder)
    options = SearchOptions(k=K, fields=())
    with served(folder) as target:
        load = run_load(LoadPlan(
            target=target, clients=2, batch=BATCH, connections=2, duration_s=seconds,
            vectors_file=str(questions.file), options=options))  # fmt: skip
        with_text = run_load(LoadPlan(
            target=target, clients=2, batch=BATCH, connections=2, duration_s=seconds,
            vectors_file=str(questions.file), options=SearchOptions(k=K)))  # fmt: skip
    _refuse_errors(load.errors)
    batch = questions.vectors[:BATCH]
    alone_s = sum(
        _median_s(_bare(folder, manifest, shard), batch, seconds / len(manifest.shards))
        for shard in range(len(manifest.shards))
    )
    n_shards = len(manifest.shards)
    print(f"batches with text, {n_shards} shards: {with_text.queries_per_s:,.0f} q/s")
    beside = "IndexRefine in one process" if n_shards == 1 else "their summed bare search"
    return Row(
        what=f"{BATCH} vectors a call, ids only, {n_shards} shards, beside {beside}",
        ours=load.queries_per_s,
        beside=BATCH / alone_s,
        unit="q/s",
        wanted="0.6" if n_shards == 1 else "0.7",
    )


def _lone(folder: Path, questions: Questions, encoder: DualEncoder, seconds: float) -> Row:
    manifest = manifest_of(folder)
    n_shards = len(manifest.shards)
    with served(folder, **NO_CACHE) as target:
        load = run_load(LoadPlan(
            target=target, clients=1, connections=1, duration_s=seconds,
            texts=questions.texts))  # fmt: skip
    _refuse_errors(load.errors)
    encode_s = _median_s(
        lambda i: encoder.encode([questions.texts[i]], Role.QUERY), None, seconds / 2
    )
    search_s = max(
        _median_s(_bare(folder, manifest, shard), questions.vectors[:1], seconds / 4)
        for shard in range(n_shards)
    )
    print(f"alone: encoder {encode_s * 1e3:.2f} ms, slowest shard {search_s * 1e3:.2f} ms")
    return Row(
        what=f"a lone text query, {n_shards} shards, over encoder plus search alone (p50)",
        ours=load.latency_ms.p50,
        beside=(encode_s + search_s) * 1e3,
        unit="ms",
        wanted="+4" if n_shards == 2 else "+6",
    )


def _bare(folder: Path, manifest: Manifest, shard: int) -> Callable[[Vectors], object]:
    """The library's own IndexRefine over a shard's files, with the router's settings."""
    (segment,) = manifest.shards[shard].segments
    index, parts = _refine(folder, segment)
    n_candidates = shard_candidates(
        wanted_candidates(K, manifest.default_oversample), segment.n_live, manifest.n_live
    )
    parameters = faiss.IndexRefineSearchParameters(  # type: ignore[call-arg]
        k_factor=(n_candidates + 0.5) / K,
        base_index_params=faiss.SearchParametersIVF(  # type: ignore[call-arg]
            nprobe=manifest.default_n_probe
        ),
    )

    def search(vectors: Vectors, _alive: object = parts) -> object:
        return index.search(vectors, K, params=parameters)

    return search


def _refine(folder: Path, segment: Segment) -> tuple[faiss.IndexRefine, object]:
    """The index, and what must live as long: faiss keeps pointers only."""
    assert segment.files.index is not None
    index = faiss.read_index(str(folder / segment.files.index.path))
    vectors = faiss.read_index(str(folder / segment.files.vectors.path), faiss.IO_FLAG_MMAP_IFC)
    return faiss.IndexRefine(index, vectors), (index, vectors)


def _median_s(work: Callable[..., object], argument: object, seconds: float) -> float:
    """The median time of one call; without an argument, call i gets i."""
    times: list[float] = []
    begun_s = time.perf_counter()
    while time.perf_counter() - begun_s < seconds or len(times) < 5:
        started_s = time.perf_counter()
        work(len(times) if argument is None else argument)
        times.append(time.perf_counter() - started_s)
    return statistics.median(times)


def _rate(work: Callable[[Sequence[str]], object], texts: Sequence[str], seconds: float) -> float:
    """Texts a second, a thousand at a time."""
    work(texts[:200])
    n_done, begun_s = 0, time.perf_counter()
    while (took_s := time.perf_counter() - begun_s) < seconds:
        part = texts[n_done % (len(texts) - 1_000) :][:1_000]
        work(part)
        n_done += len(part)
    return n_done / took_s


def _reply_bytes(target: str, request: pb.SearchRequest) -> int:
    with grpc.insecure_channel(target) as channel:
        return search_pb2_grpc.SearchServiceStub(channel).Search(request).ByteSize()


def _refuse_errors(errors: dict[str, int]) -> None:
    if errors:
        raise SystemExit(f"the run had errors, so its figures mean nothing: {errors}")


if __name__ == "__main__":
    main()
