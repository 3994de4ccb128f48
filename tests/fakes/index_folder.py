"""Index folders whose files hold a few bytes: for what never looks into them."""

import hashlib
from pathlib import Path

from shoal.formats.manifest import FileEntry, Manifest, Partition, Segment, SegmentFiles, Shard
from shoal.formats.versions import commit_version


def store(index_dir: Path, name: str, content: bytes) -> FileEntry:
    digest = hashlib.sha256(content).hexdigest()
    folder = index_dir / "data" / digest
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content)
    return FileEntry(path=f"data/{digest}/{name}", n_bytes=len(content), sha256=digest)


def commit(index_dir: Path, version: int, name: str = "tiny", n_lists: int = 0) -> Manifest:
    """A version of one shard; its ids are shared by all, its vectors its own."""
    index_dir.mkdir(parents=True, exist_ok=True)
    files = SegmentFiles(
        index=None,
        vectors=store(index_dir, "vectors.faiss", b"v%d" % version),
        passages=store(index_dir, "passages.arrow", b"p%d" % version),
        ids=store(index_dir, "ids.arrow", b"shared"),
    )
    manifest = Manifest(
        name=name, version=version, created_at="2026-01-01T00:00:00+00:00", release="0.1.0",
        n_rows=version, n_live=version, next_ordinal=10 * version, dim=4, metric="inner_product",
        recipe="Flat", n_lists=n_lists, default_n_probe=0, seed=0, n_training_vectors=0,
        devices=("cpu",), partition=Partition(n_shards=1), trained=None, metadata_columns={},
        shards=(Shard(segments=(Segment(n_rows=version, n_live=version, files=files),)),),
        encoder=None,
    )  # fmt: skip
    commit_version(index_dir, manifest)
    return manifest
