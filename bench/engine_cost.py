"""What a shard adds to faiss: the engine beside `IndexRefine.search`, the call beside the engine.

Rule: the same index, questions, n_probe and candidates for all three, timed in turn.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss

from bench.corpora import manifest_of
from bench.recipe_table import K
from bench.shard_process import shard_process
from bench.stored import opened
from bench.timing import Search, medians_s
from shard_server.limits import SearchParameters
from shoal.formats.manifest import Manifest
from shoal.internal.v1 import shard_pb2, shard_pb2_grpc
from shoal.vectors import Matrix, to_proto

BATCHES = (1, 16, 64)
HEADER = (
    "| queries a call | `IndexRefine.search`, ms | the engine, ms | ratio | SearchShard, ms "
    "| the call adds, ms |\n|--:|--:|--:|--:|--:|--:|"
)

# faiss's stubs leave out the keywords that its Python layer gives to every parameter class
_refine_parameters: Any = faiss.IndexRefineSearchParameters
_ivf_parameters: Any = faiss.SearchParametersIVF


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """Median seconds of a call with `batch` queries."""

    batch: int
    bare_s: float
    engine_s: float
    rpc_s: float

    def line(self) -> str:
        """A row of the table."""
        return (
            f"| {self.batch} | {self.bare_s * 1e3:.3f} | {self.engine_s * 1e3:.3f} "
            f"| {self.engine_s / self.bare_s:.2f} | {self.rpc_s * 1e3:.3f} "
            f"| {(self.rpc_s - self.engine_s) * 1e3:.2f} |"
        )


def measure_engine(
    index_dir: Path, questions: Matrix, *, n_probe: int, candidates: int, seconds: float
) -> tuple[Row, ...]:
    """Each batch size's three times, for an index of one shard with inverted lists."""
    manifest = manifest_of(index_dir)
    parameters = SearchParameters(k=K, n_probe=n_probe, candidates=candidates)
    bare = bare_search(index_dir, manifest, parameters)
    (shard,) = opened(index_dir)

    def engine(queries: Matrix) -> object:
        return shard.search(queries, parameters)

    rows = []
    with shard_process(index_dir) as channel:
        call = _search_shard(shard_pb2_grpc.ShardServiceStub(channel), manifest, parameters)
        for batch in BATCHES:
            bare_s, engine_s = medians_s((bare, engine), questions, batch=batch, seconds=seconds)
            alone_s, rpc_s = medians_s((engine, call), questions, batch=batch, seconds=seconds)
            rows.append(
                Row(
                    batch=batch,
                    bare_s=bare_s,
                    engine_s=engine_s,
                    rpc_s=engine_s + rpc_s - alone_s,
                )
            )
    return tuple(rows)


def bare_search(index_dir: Path, manifest: Manifest, parameters: SearchParameters) -> Search:
    """Faiss's own IndexRefine over the first segment of the first shard."""
    segment = manifest.shards[0].segments[0]
    assert segment.files.index is not None
    codes = faiss.read_index(str(index_dir / segment.files.index.path))
    stored = index_dir / segment.files.vectors.path
    vectors = faiss.read_index(str(stored), faiss.IO_FLAG_MMAP_IFC)
    index = faiss.IndexRefine(codes, vectors)
    refine = _refine_parameters(
        k_factor=(parameters.candidates + 0.5) / parameters.k,
        base_index_params=_ivf_parameters(nprobe=parameters.n_probe),
    )

    # faiss keeps pointers only: what it points to must live as long as the search
    def search(queries: Matrix, _alive: object = (codes, vectors)) -> object:
        return index.search(queries, parameters.k, params=refine)

    return search


def _search_shard(
    stub: shard_pb2_grpc.ShardServiceStub, manifest: Manifest, parameters: SearchParameters
) -> Search:
    def search(queries: Matrix) -> object:
        request = shard_pb2.SearchShardRequest(
            index=manifest.name,
            version=manifest.version,
            query_vectors=to_proto(queries),
            k=parameters.k,
            n_probe=parameters.n_probe,
            candidates=parameters.candidates,
        )
        return stub.SearchShard(request, timeout=10.0)

    return search
