"""The manifest is believed only when every hash holds, and its versions turn atomically."""

import hashlib
import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from shoal.errors import IndexFormatError
from shoal.formats.files import move_into_store
from shoal.formats.manifest import FileEntry, Manifest, Partition, Segment, SegmentFiles, Shard
from shoal.formats.versions import (
    check_file,
    commit_version,
    list_versions,
    load_manifest,
    read_current,
)


def entry(name: str, content: bytes = b"x") -> FileEntry:
    digest = hashlib.sha256(content).hexdigest()
    return FileEntry(path=f"data/{digest}/{name}", n_bytes=len(content), sha256=digest)


def make_manifest(version: int = 1, **changes: object) -> Manifest:
    files = SegmentFiles(
        index=None, vectors=entry("v"), passages=entry("passages.arrow"), ids=entry("i")
    )
    values = {
        "name": "tiny",
        "version": version,
        "created_at": "2026-01-01T00:00:00+00:00",
        "release": "0.1.0",
        "n_rows": 3,
        "n_live": 3,
        "next_ordinal": 3,
        "dim": 4,
        "metric": "inner_product",
        "recipe": "Flat",
        "n_lists": 0,
        "default_n_probe": 0,
        "seed": 0,
        "n_training_vectors": 0,
        "devices": ("cpu",),
        "partition": Partition(n_shards=1),
        "trained": None,
        "shards": (Shard(segments=(Segment(n_rows=3, n_live=3, files=files),)),),
        "metadata_columns": {"year": "int64"},
        "encoder": None,
    }
    return Manifest.model_validate(values | changes)


def test_a_committed_manifest_reads_back_equal(tmp_path: Path) -> None:
    """What is committed is what every reader sees, live or by version."""
    manifest = make_manifest()
    current = commit_version(tmp_path, manifest)
    assert load_manifest(tmp_path) == load_manifest(tmp_path, 1) == manifest
    assert read_current(tmp_path) == current
    line = f"000001 {current.manifest_sha256}\n"
    assert (tmp_path / "CURRENT").read_text() == line


def test_a_new_version_turns_current_and_keeps_the_old(tmp_path: Path) -> None:
    """Versions are immutable: the second leaves the first readable, and can't be written twice."""
    commit_version(tmp_path, make_manifest(1))
    commit_version(tmp_path, make_manifest(2, recipe="Flat"))
    assert read_current(tmp_path).version == 2
    assert list_versions(tmp_path) == (1, 2)
    assert load_manifest(tmp_path, 1).version == 1
    with pytest.raises(IndexFormatError, match="exists already"):
        commit_version(tmp_path, make_manifest(2))


@pytest.mark.parametrize("cut", [0, 1, 100, -1])
def test_a_truncated_manifest_is_refused(tmp_path: Path, cut: int) -> None:
    """Any shorter manifest fails its checksum, and the error names the file."""
    commit_version(tmp_path, make_manifest())
    path = tmp_path / "versions/000001/manifest.json"
    path.write_bytes(path.read_bytes()[:cut])
    for version in (None, 1):
        with pytest.raises(IndexFormatError, match=r"manifest\.json.*altered"):
            load_manifest(tmp_path, version)


def test_a_flipped_bit_is_refused(tmp_path: Path) -> None:
    """One bit anywhere is enough."""
    commit_version(tmp_path, make_manifest())
    path = tmp_path / "versions/000001/manifest.json"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(IndexFormatError, match="altered"):
        load_manifest(tmp_path)


@pytest.mark.parametrize("line", [b"", b"1\n", b"000001 abc\n", b"\xff\xfe", b"x" * 10_000])
def test_a_bad_current_is_refused(tmp_path: Path, line: bytes) -> None:
    """CURRENT holds one line of one form."""
    (tmp_path / "CURRENT").write_bytes(line)
    with pytest.raises(IndexFormatError, match="CURRENT: no valid index: expected"):
        read_current(tmp_path)


def test_a_folder_without_index_says_what_to_do(tmp_path: Path) -> None:
    """The commonest mistake is a wrong path."""
    with pytest.raises(IndexFormatError, match="shoal index build"):
        load_manifest(tmp_path / "nowhere")
    with pytest.raises(IndexFormatError, match=r"versions here: \(\)"):
        load_manifest(tmp_path, 7)


def _encoder(**changes: object) -> dict[str, object]:
    tower = {
        "fingerprint": "f", "dim": 2, "max_tokens": 9, "pooling": "mean", "normalized": True,
        "probe_texts": ["a"], "probe_vectors": [[1.0, 0.0]],
    }  # fmt: skip
    return {"model": "m", "question": tower | changes, "passage": tower}


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("format", 2, "format.*newer release"),
        ("min_reader", 2, "min_reader.*newer release"),
        ("surprise", 1, "surprise"),
        ("n_rows", 4, "n_rows 4"),
        ("next_ordinal", 2, "next_ordinal"),
        ("name", "../up", "name"),
        ("created_at", "yesterday", "created_at"),
        ("next_ordinal", 1 << 63, "next_ordinal"),
        ("dim", 65_537, "dim"),
        ("n_lists", 1 << 31, "n_lists"),
        ("default_oversample", float("inf"), "default_oversample"),
        ("encoder", _encoder(probe_vectors=[[1.0]]), "probe_vectors"),
        ("encoder", _encoder(probe_vectors=[[1.0, float("nan")]]), "probe_vectors"),
        ("encoder", _encoder(dim=-1), "dim"),
    ],
)
def test_a_manifest_that_makes_no_sense_is_refused(
    tmp_path: Path, field: str, value: object, message: str
) -> None:
    """A true checksum over wrong content doesn't help."""
    content = json.loads(make_manifest().model_dump_json()) | {field: value}
    data = json.dumps(content).encode()
    folder = tmp_path / "versions/000001"
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_bytes(data)
    (tmp_path / "CURRENT").write_text(f"000001 {hashlib.sha256(data).hexdigest()}\n")
    with pytest.raises(IndexFormatError, match=message):
        load_manifest(tmp_path)


@pytest.mark.parametrize(
    "path",
    [
        "../x",
        "data/../../etc/passwd",
        "/etc/passwd",
        "data/{sha}/../x",
        "data/{sha}/.x",
        "",
        "data/{sha}/x\n",
    ],
)
def test_names_cannot_leave_the_folder(path: str) -> None:
    """A manifest from elsewhere can't point at a file of this machine."""
    digest = "0" * 64
    with pytest.raises(ValidationError, match="not data/"):
        FileEntry(path=path.replace("{sha}", digest), n_bytes=1, sha256=digest)


def test_check_file_holds_a_file_to_its_entry(tmp_path: Path) -> None:
    """Place, size and hash, each refused by name."""
    staged = tmp_path / "vectors.faiss"
    staged.write_bytes(b"12345")
    digest, n_bytes = move_into_store(staged, tmp_path / "data")
    good = FileEntry(path=f"data/{digest}/vectors.faiss", n_bytes=n_bytes, sha256=digest)
    path = check_file(tmp_path, good)
    assert path.read_bytes() == b"12345"
    path.write_bytes(b"12346")
    with pytest.raises(IndexFormatError, match=r"vectors.faiss: SHA-256"):
        check_file(tmp_path, good)
    path.write_bytes(b"1234")
    with pytest.raises(IndexFormatError, match="4 bytes, the manifest says 5"):
        check_file(tmp_path, good)
    path.unlink()
    with pytest.raises(IndexFormatError, match="missing"):
        check_file(tmp_path, good)
    path.symlink_to("/etc/hostname")
    with pytest.raises(IndexFormatError, match="leads out"):
        check_file(tmp_path, good)
