"""Push and pull through S3's own protocol: moto's server, s3fs's client."""

from collections.abc import Iterator

import pytest
from fakes.index_folder import commit
from fakes.s3 import s3_bucket, s3_server, s3fs

from shard_server.building.progress import silent
from shoal.errors import IndexFormatError, ShoalError
from shoal.formats.remote_pull import pull_index
from shoal.formats.remote_push import push_index
from shoal.formats.remote_store import open_remote
from shoal.formats.versions import check_file, load_manifest


@pytest.fixture(scope="module")
def server() -> Iterator[dict[str, str]]:
    with s3_server() as environment:
        yield environment


@pytest.fixture
def bucket(server, monkeypatch) -> Iterator[str]:
    with s3_bucket(server, monkeypatch, "shoal-test") as url:
        yield url


def test_an_index_goes_through_s3_and_comes_back(bucket, tmp_path):
    """Version 1, then what is new in version 2, then nothing; a lost file is an error."""
    url = f"{bucket}/indexes/tiny"
    commit(tmp_path / "index", 1)
    assert push_index(tmp_path / "index", open_remote(url), silent).n_files_copied == 3
    assert pull_index(open_remote(url), tmp_path / "copy", silent).n_files_copied == 3
    commit(tmp_path / "index", 2)
    assert push_index(tmp_path / "index", open_remote(url), silent).n_files_copied == 2
    assert pull_index(open_remote(url), tmp_path / "copy", silent).n_files_copied == 2
    again = push_index(tmp_path / "index", open_remote(url), silent)
    assert (again.n_files_copied, again.turned) == (0, False)
    manifest = load_manifest(tmp_path / "copy")
    assert manifest.version == 2
    for entry in manifest.entries():
        check_file(tmp_path / "copy", entry)
    open_remote(url).delete(manifest.entries()[0].path)
    with pytest.raises(IndexFormatError, match="missing"):
        pull_index(open_remote(url), tmp_path / "second", silent)
    assert push_index(tmp_path / "index", open_remote(url), silent).n_files_copied == 1
    assert pull_index(open_remote(url), tmp_path / "second", silent).turned


def test_a_bucket_that_is_not_there_is_one_clear_error_and_is_not_made(bucket, tmp_path):
    """A mistyped bucket must not come into being."""
    commit(tmp_path / "index", 1)
    with pytest.raises(IndexFormatError, match="holds no index"):
        pull_index(open_remote("s3://shoal-tset/tiny"), tmp_path / "copy", silent)
    with pytest.raises(ShoalError, match="s3://shoal-tset/tiny"):
        push_index(tmp_path / "index", open_remote("s3://shoal-tset/tiny"), silent)
    assert not s3fs.S3FileSystem().exists("shoal-tset")
