"""How the commands of a cluster's own user find a name that the router's certificate is for."""

import numpy as np
import pytest

from deploy.access import local_credentials
from deploy.state import ClusterState
from shoal.client import AsyncClient
from shoal.rpc import certificates
from shoal.rpc.certificates import CertificateFiles, ServerCertificates

VECTOR = np.ones(4, np.float32)


def state_of(files, target):
    return ClusterState(
        name="default", pid=1, started=1, phase="ready", target=target, index_dir="", index="tiny",
        version=1, processes=(), tls_certificate=str(files.certificate), tls_key=str(files.key),
    )  # fmt: skip


async def index_at(state):
    async with AsyncClient(state.target, tls=local_credentials(state).tls) as client:
        return (await client.search(vector=VECTOR, timeout_s=20)).index


@pytest.mark.parametrize(
    "names",
    [
        ("ops@example.com", "10.0.0.1", "search.example.com"),
        ("ops@example.com", "10.0.0.1"),
        ("*.example.com",),
    ],
)
async def test_any_kind_of_name_will_do(server_on, authority, tmp_path, names):
    """A certificate's first name may be of no server: a mail address, a SPIFFE URI."""
    files = authority.sign("some", *names, folder=tmp_path)
    serving = ServerCertificates(CertificateFiles(certificate=files.certificate, key=files.key))
    async with server_on(serving.credentials()) as target:
        assert await index_at(state_of(files, target)) == "hidden"


async def test_a_renewed_certificate_may_have_other_names(
    server_on, authority, tmp_path, monkeypatch
):
    """The name is read when a command runs, and not when the cluster was started."""
    monkeypatch.setattr(certificates, "_CHECK_EVERY_S", 0.0)
    files = authority.sign("served", "one.example.com", folder=tmp_path)
    serving = ServerCertificates(CertificateFiles(certificate=files.certificate, key=files.key))
    async with server_on(serving.credentials()) as target:
        state = state_of(files, target)
        assert await index_at(state) == "hidden"
        authority.sign("served", "two.example.com", folder=tmp_path)
        assert await index_at(state) == "hidden"


def test_a_certificate_that_cannot_be_read_names_nobody(tmp_path):
    """The connection's own error tells why; a command ends in no traceback."""
    for name in ("c.pem", "c.key"):
        assert local_credentials(state_at(tmp_path)).tls.server_name == ""
        (tmp_path / name).write_text("no PEM")
    assert local_credentials(state_at(tmp_path)).tls.server_name == ""


def state_at(folder):
    class Files:
        certificate, key = folder / "c.pem", folder / "c.key"

    return state_of(Files, "127.0.0.1:1")
