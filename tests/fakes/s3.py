"""S3 on this machine: moto's server, and buckets in it by s3fs. Who imports this is skipped where
either is not installed.
"""

import contextlib
from collections.abc import Iterator

import pytest

moto_server = pytest.importorskip(
    "moto.server", reason="moto is not installed", exc_type=ImportError
)
s3fs = pytest.importorskip("s3fs", reason="s3fs is not installed")

SECRET = "not-for-any-log"


@contextlib.contextmanager
def s3_server() -> Iterator[dict[str, str]]:
    """A server; the environment that leads its clients to it."""
    server = moto_server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        yield {
            "AWS_ENDPOINT_URL": f"http://{host}:{port}",
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_DEFAULT_REGION": "us-east-1",
        }
    finally:
        server.stop()


@contextlib.contextmanager
def s3_bucket(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch, name: str
) -> Iterator[str]:
    """An empty bucket, by its URL; what is in it at the end goes with it."""
    for variable, value in environment.items():
        monkeypatch.setenv(variable, value)
    s3fs.S3FileSystem.clear_instance_cache()
    filesystem = s3fs.S3FileSystem()
    filesystem.mkdir(name)
    try:
        yield f"s3://{name}"
    finally:
        with contextlib.suppress(FileNotFoundError):
            filesystem.rm(name, recursive=True)
        s3fs.S3FileSystem.clear_instance_cache()
