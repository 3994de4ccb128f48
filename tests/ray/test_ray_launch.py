"""What `up` does to a running cluster, and several commands at once: without Ray."""

import contextlib
from types import SimpleNamespace

import pytest

from deploy.plan import IndexFacts
from deploy.ray import launch
from deploy.ray.application import IMPORT_PATH
from deploy.ray.options import ray_options
from shoal.errors import FailedPreconditionError

RUNNING = ("directory", "router", "shard-0", "shard-1")


class Serve:
    """Serve's client with one application; `applied` is what it was told."""

    def __init__(self) -> None:
        self.applied = []

    def get_serve_details(self):
        config = {"name": "default", "import_path": IMPORT_PATH, "deployments": []}
        app = {"deployed_app_config": config, "deployments": {name: {} for name in RUNNING}}
        return {"applications": {"default": app}}

    def deploy_apps(self, config):
        self.applied.append(config)


@pytest.fixture
def serve(tmp_path, monkeypatch):
    """Everything that `up` asks of Ray."""
    client = Serve()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setattr(launch, "connected", lambda _: contextlib.nullcontext("127.0.0.1:1"))
    monkeypatch.setattr(launch, "node_hosts", lambda: ["127.0.0.1"])
    monkeypatch.setattr(launch, "cluster_cpus", lambda: 16.0)
    monkeypatch.setattr(launch, "own_runtime_env", dict)
    monkeypatch.setattr(launch, "own_turn", contextlib.nullcontext)
    monkeypatch.setattr(launch, "serve_client", lambda: client)
    return client


def test_an_index_built_anew_with_other_shards_leaves_a_running_cluster_alone(serve, monkeypatch):
    """The pin stays what it was: shards of another number could open none of that version."""
    facts = IndexFacts(name="wiki", version=1, n_shards=4, encoder_model=None)
    monkeypatch.setattr(launch, "index_facts", lambda _: facts)
    with pytest.raises(FailedPreconditionError, match=r"with 2 shards and .* has 4"):
        launch.up(ray_options({"index": "/i"}), None, 0.0, print)
    assert not serve.applied


@pytest.mark.ray
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Serve's own
def test_a_config_that_serve_builds_leaves_it_alone_too(monkeypatch):
    """`serve deploy` and KubeRay never come past `up`; what Serve can't build replaces nothing."""
    from deploy.ray import app

    facts = IndexFacts(name="wiki", version=1, n_shards=4, encoder_model=None)
    monkeypatch.setattr(app, "index_facts", lambda _: facts)
    running = SimpleNamespace(deployments={name: {} for name in RUNNING})
    monkeypatch.setattr(app, "serve_statuses", lambda: {"default": running})
    with pytest.raises(FailedPreconditionError, match=r"with 2 shards and .* has 4"):
        app.build(ray_options({"index": "/i"}))
