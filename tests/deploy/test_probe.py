"""`python -m deploy.probe`: the exit code says whether a process serves."""

import contextlib
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
import trustme
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from deploy.probe import main
from shoal.rpc.limits import server_options

PATIENT = ("--timeout-s", "60")
"""The default is for machines with nothing else to do."""


@contextlib.contextmanager
def _server(status, certificate=None):
    with ThreadPoolExecutor(1) as pool:
        server = grpc.server(pool, options=server_options())
        servicer = health.HealthServicer()
        servicer.set("", status)
        health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
        if certificate is None:
            port = server.add_insecure_port("127.0.0.1:0")
        else:
            pem = (certificate.private_key_pem.bytes(), certificate.cert_chain_pems[0].bytes())
            port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([pem]))
        server.start()
        try:
            yield f"127.0.0.1:{port}"
        finally:
            server.stop(None).wait()


@pytest.mark.parametrize(
    ("status", "code", "said"),
    [
        (health_pb2.HealthCheckResponse.SERVING, 0, ""),
        (health_pb2.HealthCheckResponse.NOT_SERVING, 69, "is NOT_SERVING"),
    ],
)
def test_the_exit_code_is_the_health(status, code, said, capsys):
    """A router that drains says NOT_SERVING, and Kubernetes takes it out of the Service."""
    with _server(status) as target:
        assert main(["--target", target, *PATIENT]) == code
    assert said in capsys.readouterr().err


def test_nothing_there_is_not_healthy(dead_address, capsys):
    """One line that says what was asked, and no traceback."""
    assert main(["--target", dead_address, *PATIENT]) == 69
    assert capsys.readouterr().err == f"probe: {dead_address} doesn't answer: UNAVAILABLE\n"


def test_a_certificate_may_have_another_name_than_the_address(tmp_path):
    """Pods are asked by their IPs, which no certificate carries."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    certificate = authority.issue_cert("routers.example")
    with _server(health_pb2.HealthCheckResponse.SERVING, certificate) as target:
        tls = ["--target", target, "--tls-ca", str(tmp_path / "ca.pem"), *PATIENT]
        assert main([*tls, "--tls-server-name", "routers.example"]) == 0
        assert main([*tls, "--tls-server-name", "others.example"]) == 69


def test_a_target_that_is_none_is_refused_in_one_line(capsys):
    """Exit code 64: the manifest is wrong, not the process."""
    assert main(["--target", "router"]) == 64
    assert capsys.readouterr().err.count("\n") == 1
