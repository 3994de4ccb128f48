"""Small indexes in format 1, written here so that a shard's tests need no build."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import faiss
import numpy as np
import pyarrow as pa
import pytest

from shard_server.devices import CpuBackend
from shard_server.index import ShardIndex
from shoal.formats.files import move_into_store
from shoal.formats.ids import hash64, hash_ids, write_ids
from shoal.formats.manifest import FileEntry, Manifest, Partition, Segment, SegmentFiles, Shard
from shoal.formats.passages import PassageWriter
from shoal.formats.versions import commit_version, list_versions

METRICS = {"inner_product": faiss.METRIC_INNER_PRODUCT, "l2": faiss.METRIC_L2}


class Corpus(NamedTuple):
    """Vectors as stored (float16 values in float32) and queries near them."""

    vectors: np.ndarray
    queries: np.ndarray


@pytest.fixture(scope="session")
def corpus() -> Corpus:
    rng = np.random.default_rng(7)
    centers = rng.standard_normal((60, 64))
    vectors = centers[rng.integers(0, 60, 6_000)] + 0.6 * rng.standard_normal((6_000, 64))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors[100:140] = vectors[100]  # the same text many times over, as real corpora have it
    vectors = vectors.astype(np.float16).astype(np.float32)
    queries = vectors[rng.integers(0, 6_000, 200)] + 0.05 * rng.standard_normal((200, 64))
    queries[0] = vectors[100]
    return Corpus(vectors, np.ascontiguousarray(queries, dtype=np.float32))


def train(recipe: str, metric: str, vectors: np.ndarray) -> faiss.Index | None:
    if recipe == "Flat":
        return None
    index = faiss.index_factory(vectors.shape[1], recipe, METRICS[metric])
    index.cp.min_points_per_centroid = 1  # few points are enough here, and no warning is wanted
    if hasattr(index, "pq"):
        index.pq.cp.min_points_per_centroid = 1
    if hasattr(index, "do_polysemous_training"):
        index.do_polysemous_training = False  # a second and more a code, for nothing here
    index.train(vectors[:1_000])
    return index


@pytest.fixture(scope="session")
def write_index(corpus) -> Callable[..., Manifest]:
    """Write a version: `shares` are the segments of each shard, as row numbers of the corpus."""
    trained: dict[tuple[str, str], faiss.Index | None] = {}

    def write(
        folder: Path,
        recipe: str = "IVF32,PQ16",
        *,
        n_shards: int = 1,
        n_segments: int = 1,
        n_rows: int | None = None,
        metric: str = "inner_product",
        metadata: bool = False,
        devices: Sequence[str] = ("cpu",),
        name: str = "tiny",
    ) -> Manifest:
        vectors = corpus.vectors[:n_rows]
        if (recipe, metric) not in trained:
            trained[recipe, metric] = train(recipe, metric, corpus.vectors)
        empty = trained[recipe, metric]
        ids = [f"p{i}" for i in range(len(vectors))]
        shard_of = np.array([hash64(i) % n_shards for i in ids], dtype=np.int64)
        shards = []
        for number in range(n_shards):
            mine = np.flatnonzero(shard_of == number)
            segments = [
                _segment(folder, empty, metric, vectors, part, ids, metadata=metadata)
                for part in np.array_split(mine, n_segments)
            ]
            shards.append(Shard(segments=tuple(segments)))
        n_lists = 0 if empty is None else faiss.extract_index_ivf(empty).nlist
        manifest = Manifest(
            name=name,
            version=max(list_versions(folder), default=0) + 1,
            created_at="2026-11-23T00:00:00+00:00",
            release="0.1.0",
            n_rows=len(vectors),
            n_live=len(vectors),
            next_ordinal=len(vectors),
            dim=vectors.shape[1],
            metric=metric,
            recipe=recipe,
            n_lists=n_lists,
            default_n_probe=min(8, n_lists),
            seed=0,
            n_training_vectors=len(corpus.vectors),
            devices=tuple(devices),
            partition=Partition(n_shards=n_shards),
            trained=None,
            shards=tuple(shards),
            metadata_columns={"page": "int64", "tags": "string_list"} if metadata else {},
            encoder=None,
        )
        commit_version(folder, manifest)
        return manifest

    return write


def _segment(folder, empty, metric, vectors, rows, ids, *, metadata) -> Segment:
    folder.mkdir(parents=True, exist_ok=True)
    dim = vectors.shape[1]
    stored = faiss.IndexScalarQuantizer(dim, faiss.ScalarQuantizer.QT_fp16, METRICS[metric])
    stored.train(vectors[:1])
    index = None if empty is None else faiss.clone_index(empty)
    if len(rows):
        stored.add(vectors[rows])
    if index is not None and len(rows):
        index.add(vectors[rows])
    faiss.write_index(stored, str(folder / "vectors.faiss"))
    if index is not None:
        faiss.write_index(index, str(folder / "index.faiss"))
    columns = {"page": "int64", "tags": "string_list"} if metadata else {}
    with PassageWriter(folder / "passages.arrow", columns) as writer:
        values = [
            pa.array(rows, pa.int64()),
            pa.array([ids[i] for i in rows], pa.string()),
            pa.array([f"title {i}" for i in rows], pa.string()),
            pa.array([f"text {i} é" * (i % 3 + 1) for i in rows], pa.string()),
        ]
        if metadata:
            values.append(pa.array([None if i % 2 else int(i) for i in rows], pa.int64()))
            values.append(pa.array([[f"t{i}"] for i in rows], pa.list_(pa.string())))
        writer.write(pa.record_batch(values, schema=writer.schema))
    write_ids(folder / "ids.arrow", hash_ids(ids[i] for i in rows))
    return Segment(
        n_rows=len(rows),
        n_live=len(rows),
        files=SegmentFiles(
            index=None if index is None else _store(folder, "index.faiss"),
            vectors=_store(folder, "vectors.faiss"),
            passages=_store(folder, "passages.arrow"),
            ids=_store(folder, "ids.arrow"),
        ),
    )


def _store(folder: Path, name: str) -> FileEntry:
    sha256, n_bytes = move_into_store(folder / name, folder / "data")
    return FileEntry(path=f"data/{sha256}/{name}", n_bytes=n_bytes, sha256=sha256)


@pytest.fixture(scope="session")
def open_shard() -> Callable[..., ShardIndex]:
    """Read and place a shard on the CPU."""

    def open_(folder: Path, manifest: Manifest, shard: int = 0, backend=None) -> ShardIndex:
        segments = ShardIndex.read(folder, manifest, shard)
        return ShardIndex.place(manifest, shard, segments, backend or CpuBackend())

    return open_


def exact_search(vectors, queries, k, metric="inner_product"):
    """Brute force in float64: scores and ordinals by (-score, ordinal)."""
    if metric == "l2":
        # a query at a time: all differences at once would not fit into any cache
        each = (((query - vectors) ** 2).sum(axis=1) for query in queries.astype(np.float64))
        scores = -np.stack(list(each))
    else:
        scores = queries.astype(np.float64) @ vectors.T.astype(np.float64)
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(scores, order, axis=1), order


@pytest.fixture(scope="session")
def oracle() -> Callable[..., tuple[np.ndarray, np.ndarray]]:
    """Exact search by numpy."""
    return exact_search
