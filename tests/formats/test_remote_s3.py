"""Push and pull through S3's own protocol: moto's server, s3fs's client."""

import contextlib
from collections.abc import Iterator

import pytest
from fakes.index_folder import commit

from shoal.errors import IndexFormatError, ShoalError
from shoal.formats.remote_pull import pull_index
from shoal.formats.remote_push import push_index
from shoal.formats.remote_store import open_remote
from shoal.formats.versions import check_file, load_manifest

moto_server = pytest.importorskip(
    "moto.server", reason="moto is not installed", exc_type=ImportError
)
s3fs = pytest.importorskip("s3fs", reason="s3fs is not installed")


def quiet(stage: str, done: int, total: int | None) -> None:
    """No progress."""


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    server = moto_server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(endpoint, monkeypatch) -> Iterator[str]:
    for name, value in {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    filesystem = s3fs.S3FileSystem()
    filesystem.mkdir("shoal-test")
    yield "s3://shoal-test"
    with contextlib.suppress(FileNotFoundError):
        filesystem.rm("shoal-test", recursive=True)
    s3fs.S3FileSystem.clear_instance_cache()


def test_an_index_goes_through_s3_and_comes_back(bucket, tmp_path):
    """Version 1, then what is new in version 2, then nothing; a lost file is an error."""
    url = f"{bucket}/indexes/tiny"
    commit(tmp_path / "index", 1)
    assert push_index(tmp_path / "index", open_remote(url), quiet).n_files_copied == 3
    assert pull_index(open_remote(url), tmp_path / "copy", quiet).n_files_copied == 3
    commit(tmp_path / "index", 2)
    assert push_index(tmp_path / "index", open_remote(url), quiet).n_files_copied == 2
    assert pull_index(open_remote(url), tmp_path / "copy", quiet).n_files_copied == 2
    again = push_index(tmp_path / "index", open_remote(url), quiet)
    assert (again.n_files_copied, again.turned) == (0, False)
    manifest = load_manifest(tmp_path / "copy")
    assert manifest.version == 2
    for entry in manifest.entries():
        check_file(tmp_path / "copy", entry)
    open_remote(url).delete(manifest.entries()[0].path)
    with pytest.raises(IndexFormatError, match="missing"):
        pull_index(open_remote(url), tmp_path / "second", quiet)
    assert push_index(tmp_path / "index", open_remote(url), quiet).n_files_copied == 1
    assert pull_index(open_remote(url), tmp_path / "second", quiet).turned


def test_a_bucket_that_is_not_there_is_one_clear_error_and_is_not_made(bucket, tmp_path):
    """A mistyped bucket must not come into being."""
    commit(tmp_path / "index", 1)
    with pytest.raises(IndexFormatError, match="holds no index"):
        pull_index(open_remote("s3://shoal-tset/tiny"), tmp_path / "copy", quiet)
    with pytest.raises(ShoalError, match="s3://shoal-tset/tiny"):
        push_index(tmp_path / "index", open_remote("s3://shoal-tset/tiny"), quiet)
    assert not s3fs.S3FileSystem().exists("shoal-tset")
