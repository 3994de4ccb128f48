"""What `shoal up --detach` starts is what it was told, option by option."""

from dataclasses import fields
from pathlib import Path

import pytest

from deploy import local
from deploy.cli.main import run
from deploy.cli.up_arguments import up_arguments
from deploy.plan import UpOptions
from deploy.traces import Traces

EVERYTHING = {
    "replicas": 3, "host": "0.0.0.0", "port": 50_052, "insecure": True, "device": "cpu",
    "model": "some-model", "grace_s": 2.5, "start_timeout_s": 33.0,
    "tls_certificate": Path("/tls/server.pem"), "tls_key": Path("/tls/server.key"),
    "tls_client_ca": Path("/tls/ca.pem"), "tokens": Path("/tls/tokens.yaml"),
    "live_recall_budget": 0.0, "http_port": 0, "http_host": "::1",
    "traces": Traces(otlp="127.0.0.1:4317", sample=0.25, ca=Path("/tls/collector.pem")),
}  # fmt: skip


@pytest.fixture
def started(monkeypatch) -> list[UpOptions]:
    """The options of the clusters that the command would have run."""
    options = []

    async def run_cluster(given, facts, say):
        options.append(given)

    monkeypatch.setattr(local, "run_cluster", run_cluster)
    monkeypatch.setattr(local, "index_facts", lambda place: None)
    monkeypatch.setattr(Traces, "check", lambda self: None)
    return options


@pytest.mark.parametrize("given", [{}, EVERYTHING], ids=["nothing", "everything"])
@pytest.mark.parametrize("is_url", [False, True], ids=["folder", "url"])
def test_the_command_line_leads_to_the_same_options(given, is_url, started, tmp_path):
    """A flag that is left out would hold in the foreground alone."""
    index = "s3://bucket/books" if is_url else str(tmp_path / "books")
    first = ["up", "--name", "other", "--index", index, "--cache-dir", str(tmp_path / "cache")]
    assert run(first) == 0
    options = UpOptions(
        name="other", index_dir=started[0].index_dir, index_url=started[0].index_url, **given
    )
    assert run(up_arguments(options)) == 0
    assert started[1] == options


def test_everything_is_everything():
    """A new option comes along, or this says that nobody tried it."""
    of_the_index = {"name", "index_dir", "index_url"}
    assert {field.name for field in fields(UpOptions)} == of_the_index | EVERYTHING.keys()
