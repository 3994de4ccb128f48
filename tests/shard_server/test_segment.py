"""Files that are not what the manifest says are refused, before faiss or arrow reads them."""

import faiss
import pytest

from shard_server import segment
from shard_server.index import ShardIndex
from shard_server.segment import check_place
from shoal.errors import IndexFormatError


@pytest.fixture
def unread(monkeypatch):
    """Fails the test if faiss is asked to read anything."""

    def refuse(*_):
        raise AssertionError("faiss read a file that does not verify")

    monkeypatch.setattr(segment.faiss, "read_index", refuse)


@pytest.mark.parametrize("name", ["index", "vectors", "passages", "ids"])
@pytest.mark.parametrize("damage", ["truncated", "flipped", "missing"])
def test_damage_is_seen_before_anything_is_read(tmp_path, write_index, unread, name, damage):
    """One bit, a cut or a lost file: one error that names the file."""
    manifest = write_index(tmp_path, n_rows=500)
    entry = getattr(manifest.shards[0].segments[0].files, name)
    path = tmp_path / entry.path
    content = bytearray(path.read_bytes())
    if damage == "truncated":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "flipped":
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    else:
        path.unlink()
    with pytest.raises(IndexFormatError, match=str(path)):
        ShardIndex.read(tmp_path, manifest, 0)


@pytest.mark.parametrize("cut", [4, 100, 5000])
def test_faiss_refuses_what_the_hash_did_not(tmp_path, write_index, cut):
    """Without hashes, a file of the right size with hostile content is still one clear error."""
    manifest = write_index(tmp_path, n_rows=500)
    path = tmp_path / manifest.shards[0].segments[0].files.index.path
    content = path.read_bytes()
    path.write_bytes(content[:cut] + b"\xff" * (len(content) - cut))
    with pytest.raises(IndexFormatError, match=str(path)):
        ShardIndex.read(tmp_path, manifest, 0, check=check_place)


def test_a_file_outside_the_folder_is_refused(tmp_path, write_index):
    """A link that leads out of the index is not followed, hashed or not."""
    manifest = write_index(tmp_path / "index", n_rows=500)
    path = tmp_path / "index" / manifest.shards[0].segments[0].files.vectors.path
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    for check in (segment.check_file, check_place):
        with pytest.raises(IndexFormatError, match="leads out"):
            ShardIndex.read(tmp_path / "index", manifest, 0, check=check)


def test_another_segments_index_is_refused(tmp_path, write_index):
    """Files that verify but do not belong together are told by their counts."""
    manifest = write_index(tmp_path, n_rows=500)
    other = write_index(tmp_path, n_rows=400).shards[0].segments[0]
    mine = manifest.shards[0].segments[0]
    for name in ("index", "vectors", "passages"):
        mixed = mine.model_copy(
            update={"files": mine.files.model_copy(update={name: getattr(other.files, name)})}
        )
        with pytest.raises(IndexFormatError, match="500"):
            segment.read_segment(tmp_path, manifest, mixed)


def test_an_index_of_another_quantizer_is_refused(tmp_path, write_index):
    """The manifest's lists are those of the file."""
    manifest = write_index(tmp_path, n_rows=500)
    with pytest.raises(IndexFormatError, match="32 lists, the manifest says 16"):
        ShardIndex.read(tmp_path, manifest.model_copy(update={"n_lists": 16}), 0)


def test_two_transforms_are_refused(tmp_path):
    """The engine takes one apart; a file with more would be searched wrongly."""
    index = faiss.index_factory(8, "RR,RR,SQ8")
    with pytest.raises(IndexFormatError, match=r"x: 2 transforms"):
        segment._check_transform(tmp_path / "x", index)
    index = faiss.index_factory(8, "PCA4,SQ8")
    with pytest.raises(IndexFormatError, match="does not fit"):
        segment._check_transform(tmp_path / "x", index)  # never trained: it has no matrix


def test_deleted_passages_are_not_served_silently(tmp_path, write_index):
    """A bitmap that is none of this segment's stops it."""
    manifest = write_index(tmp_path, n_rows=500)
    mine = manifest.shards[0].segments[0]
    files = mine.files.model_copy(update={"deleted": mine.files.ids})
    with pytest.raises(IndexFormatError, match="bitmap of 500 rows"):
        segment.read_segment(tmp_path, manifest, mine.model_copy(update={"files": files}))


def test_a_shard_that_is_not_there_is_refused(tmp_path, write_index):
    """The message says how many there are."""
    with pytest.raises(IndexFormatError, match="has 1 shards"):
        ShardIndex.read(tmp_path, write_index(tmp_path, n_rows=500), 3)
