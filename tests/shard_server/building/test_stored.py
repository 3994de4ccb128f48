"""An index made from another one: nothing encoded, nothing lost, whatever the recipe and shards."""

import shutil

import numpy as np
import pytest

from shard_server.building import BuildOptions, build_index, verify_index
from shard_server.building.stored import StoredIndex
from shoal.errors import IndexFormatError


def test_passages_and_vectors_come_back_in_order(built, make_passages):
    """What four shards hold is the corpus again, with metadata, bit for bit."""
    index_dir, _, vectors = built("IVF16,PQ8x4fs", 4)
    stored = StoredIndex.open(index_dir)
    found = list(stored.passages())
    for passage, wanted in zip(found, make_passages(3_000), strict=True):
        assert (passage.id, passage.title, passage.text) == (wanted.id, wanted.title, wanted.text)
        assert passage.metadata == wanted.metadata
    assert stored.encode().contract == built("Flat", 1).manifest.encoder
    np.testing.assert_array_equal(stored.encode()([""] * 3_000, [""] * 3_000), vectors)


@pytest.mark.parametrize(("recipe", "n_shards"), [("SQ8", 4), ("IVF16,PQ8x4fs", 4), ("Flat", 2)])
def test_the_new_index_is_the_one_from_the_corpus(built, tmp_path, recipe, n_shards):
    """Contract, training and files are those of a build from the corpus: the very same hashes."""
    stored = StoredIndex.open(built("IVF16,PQ8", 1).index_dir)
    options = BuildOptions(name="tiny", recipe=recipe, n_shards=n_shards, seed=5)
    made = build_index(tmp_path / "new", stored.passages(), stored.encode(), options)
    wanted = built(recipe, n_shards).manifest
    apart = {"created_at"}
    assert made.model_dump(exclude=apart) == wanted.model_dump(exclude=apart)
    assert verify_index(tmp_path / "new").faults == ()


def test_an_altered_source_is_refused(built, tmp_path):
    """What --from reads is checked by hash before it is believed."""
    shutil.copytree(built("Flat", 1).index_dir, tmp_path / "copy")
    stored = StoredIndex.open(tmp_path / "copy")
    path = tmp_path / "copy" / stored.manifest.shards[0].segments[0].files.vectors.path
    content = bytearray(path.read_bytes())
    content[500] ^= 1
    path.write_bytes(content)
    with pytest.raises(IndexFormatError, match=str(path)):
        StoredIndex.open(tmp_path / "copy")
