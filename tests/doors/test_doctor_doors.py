"""What `shoal doctor` learns at a door, as a stranger: TLS, tokens, certificates, web pages."""

import asyncio
import http.server
import socket
import threading

import pytest
import yaml
from prometheus_client import start_http_server

from deploy.doctor.facts import doors
from deploy.doctor.facts.doors import knock
from deploy.doctor.facts.secrets import read_certificate
from deploy.doctor.facts.sockets import Listening
from shoal.rpc.certificates import CertificateFiles, ServerCertificates
from shoal.rpc.tokens import entry_of, new_token


def _knock(port):
    door = knock(1, "router", Listening(host="127.0.0.1", port=port))
    return door.speaks, door.tls, door.asks


@pytest.fixture
def tokens(tmp_path):
    entry = entry_of("ops", new_token(), ["admin"], None)
    (tmp_path / "tokens.yaml").write_text(yaml.safe_dump({"tokens": [entry]}))
    return tmp_path / "tokens.yaml"


@pytest.mark.parametrize("with_tls", [False, True])
@pytest.mark.parametrize("with_tokens", [False, True])
async def test_a_door_is_known_by_what_it_does(server_on, tokens, localhost, with_tls, with_tokens):
    """Fault 53: what a stranger could do is what counts, not what the flags promised."""
    files = CertificateFiles(certificate=localhost.certificate, key=localhost.key)
    credentials = ServerCertificates(files).credentials() if with_tls else None
    async with server_on(credentials, tokens if with_tokens else None) as target:
        told = await asyncio.to_thread(_knock, int(target.rpartition(":")[2]))
    assert told == ("grpc", with_tls, with_tokens)


async def test_a_door_that_wants_a_certificate_is_not_called_open(server_on, localhost, authority):
    """Mutual TLS refuses before there is anything to ask."""
    files = CertificateFiles(
        certificate=localhost.certificate, key=localhost.key, client_ca=authority.file
    )
    async with server_on(ServerCertificates(files).credentials()) as target:
        told = await asyncio.to_thread(_knock, int(target.rpartition(":")[2]))
    assert told == ("grpc", True, None)


def test_a_page_of_metrics_is_a_page():
    """prometheus-client's own server, as every process has it."""
    server, thread = start_http_server(0, addr="127.0.0.1")
    try:
        assert _knock(server.server_port) == ("http", False, None)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.mark.parametrize(("status", "asks"), [(401, True), (403, True), (422, False), (404, None)])
def test_a_web_door_is_asked_for_a_search_of_nothing(status, asks):
    """It says whether it wants a token before it looks at what was sent."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_error(200)

        def do_POST(self):
            self.send_error(status if self.path == "/retrieve" else 500)

        def log_message(self, *_):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            assert _knock(server.server_port) == ("http", False, asks)
        finally:
            server.shutdown()
            thread.join()


def test_a_door_that_says_nothing_is_silent(monkeypatch):
    """A process that is stopped still listens; the doctor doesn't wait for it for long."""
    monkeypatch.undo()
    assert doors._TIMEOUT_S <= 2.0
    monkeypatch.setattr(doors, "_TIMEOUT_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert _knock(server.getsockname()[1]) == ("silent", False, None)


def test_a_certificates_end_is_told(localhost, authority):
    """And one that has ended can't serve."""
    seen = read_certificate(localhost.certificate, localhost.key)
    assert seen.fault == ""
    assert seen.expires is not None
    ended = authority.sign("ended", "localhost", ended=True)
    assert "ended.pem" in read_certificate(ended.certificate, ended.key).fault
