"""Commands that open an index by themselves refuse what no recipe makes, and name the file."""

import struct

import faiss
import numpy as np
import pytest
from fakes.hostile_files import replace_file

from shard_server.building import inspect_index, verify_index
from shard_server.building.vectors import read_trained
from shard_server.faiss_files import read_familiar
from shoal.errors import IndexFormatError
from shoal.formats.versions import commit_version


def graph(rows: np.ndarray) -> bytes:
    """A type whose links no check of ours covers."""
    index = faiss.IndexHNSWFlat(rows.shape[1], 4, faiss.METRIC_INNER_PRODUCT)
    index.add(rows)
    return faiss.serialize_index(index).tobytes()


@pytest.fixture
def spoil(tmp_path, corpus, write_index):
    """Commit a version whose compressed index is another file, with a true checksum."""

    def spoil(kind: str):
        manifest = write_index(tmp_path, "IVF32,PQ16", n_rows=300)
        if kind == "graph":
            content = graph(corpus.vectors[:300])
        else:  # a row count beyond all memory
            files = manifest.shards[0].segments[0].files
            content = bytearray((tmp_path / files.index.path).read_bytes())
            at = content.index(struct.pack("<QQ", 32, 1), 30)
            struct.pack_into("<Q", content, at, 1 << 40)
        spoilt, path = replace_file(tmp_path, manifest, "index", bytes(content))
        commit_version(tmp_path, spoilt.model_copy(update={"version": 2}))
        return path

    return spoil


@pytest.mark.parametrize("kind", ["graph", "huge"])
def test_verify_and_inspect_refuse_foreign_files(tmp_path, spoil, kind):
    """They run on folders from elsewhere more than any server does."""
    path = spoil(kind)
    (fault,) = verify_index(tmp_path).faults
    assert fault.startswith(f"{path}: ")
    with pytest.raises(IndexFormatError, match=str(path)):
        inspect_index(tmp_path)


def test_an_addition_refuses_a_foreign_trained_index(tmp_path):
    """An empty graph is trained, empty and of the right dimension."""
    path = tmp_path / "trained.faiss"
    faiss.write_index(faiss.IndexHNSWFlat(8, 4), str(path))
    with pytest.raises(IndexFormatError, match="IndexHNSWFlat"):
        read_trained(path, n_lists=0, dim=8)


def test_a_small_index_leaves_no_bound_for_a_larger_one(tmp_path):
    """faiss's bounds are the process's: each file is read under its own."""
    rows = np.zeros((40_000, 64), dtype=np.float32)
    large = faiss.IndexScalarQuantizer(64, faiss.ScalarQuantizer.QT_8bit)
    large.train(rows[:1])
    small = faiss.clone_index(large)
    large.add(rows)
    for index, name in ((small, "small"), (large, "large")):
        faiss.write_index(index, str(tmp_path / name))
        assert (
            read_familiar(tmp_path / name, mapped=False, n_lists=0, dim=64).ntotal == index.ntotal
        )
