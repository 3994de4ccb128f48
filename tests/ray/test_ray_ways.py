"""Other ways to the same application: a Ray job, and a Serve config."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from fakes.ray_head import RayHead
from faults.processes import ROOT, exists, free_port, poll

from deploy.ray.application import IMPORT_PATH, app_config
from deploy.ray.options import ray_options
from deploy.state import read_state
from shoal.client import Client

BIN = Path(sys.executable).parent
CONFIG = ROOT / "deploy" / "serve.yaml"


def test_the_config_that_is_shipped_names_options_that_there_are():
    """Its `args` are read on a cluster, where a wrong name is a traceback in a status."""
    (application,) = yaml.safe_load(CONFIG.read_text())["applications"]
    assert application["import_path"] == IMPORT_PATH
    assert ray_options(application["args"]).port == 50051


@pytest.mark.ray
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Ray's own
def test_serve_rolls_for_other_options_and_for_no_other_count():
    """What Serve hashes is its own: it decides whether `shoal scale` restarts every process."""
    from ray.serve._private.deploy_utils import get_app_code_version
    from ray.serve.schema import ServeApplicationSchema

    def version(counts: dict[str, int], **values: object) -> str:
        config = app_config(ray_options({"index": "/data/wiki", **values}), counts, {})
        return get_app_code_version(ServeApplicationSchema.model_validate(config))

    assert version({"shard-0": 2}, replicas=2) == version({"shard-0": 5}, replicas=5)
    assert version({}) != version({}, grace_s=1.0)
    assert version({}) != version({}, program="another")


@pytest.fixture
def head(tmp_path):
    """A node with a dashboard, which takes jobs and configs."""
    port = free_port()
    head = RayHead(tmp_path / "state", dashboard_port=port)
    head.environment["RAY_DASHBOARD_ADDRESS"] = f"http://127.0.0.1:{port}"
    try:
        yield head.wait_started()
    finally:
        head.end()


@pytest.mark.ray
@pytest.mark.timeout(400)
def test_a_job_and_a_serve_config_start_the_same_cluster(
    head, axes_index, tmp_path, monkeypatch, run_shoal
):
    """`ray job submit` ends when the cluster is ready; `serve deploy` builds it from a file.

    Nobody here knows of the latter until `attach`; then all commands find it, and `down` ends it.
    """

    def run(*command: str) -> bool:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=200, check=False, cwd=ROOT,
            env={**os.environ, **head.environment},
        )  # fmt: skip
        said = done.stdout[-2000:] + done.stderr[-2000:]
        assert done.returncode == 0 or "No available agent" in said, said
        return done.returncode == 0

    monkeypatch.setenv("XDG_STATE_HOME", head.environment["XDG_STATE_HOME"])
    shoal = (sys.executable, "-m", "deploy.cli.main")
    submit = (
        str(BIN / "ray"), "job", "submit", "--address", head.environment["RAY_DASHBOARD_ADDRESS"],
        "--", *shoal, "up", "--on", "ray", "--index", str(axes_index), "--name", "job",
    )  # fmt: skip
    poll(lambda: run(*submit), within_s=60.0, what="the node takes jobs")
    state = read_state("job")
    assert state is not None
    assert found(state.target) == ["p3"]
    run(*shoal, "down", "--name", "job")
    assert not any(exists(process.pid) for process in state.processes)

    (application,) = yaml.safe_load(CONFIG.read_text())["applications"]
    config = {
        "proxy_location": "Disabled",
        "applications": [{
            **application,
            "args": {"index": str(axes_index), "port": free_port(), "host": "127.0.0.1"},
            "deployments": [{"name": "shard-0", "num_replicas": 2}],
        }],
    }  # fmt: skip
    path = tmp_path / "serve.yaml"
    path.write_text(yaml.safe_dump(config))
    port = config["applications"][0]["args"]["port"]
    run(str(BIN / "serve"), "deploy", str(path))
    poll(lambda: found(f"127.0.0.1:{port}") == ["p3"], within_s=90.0, what="the config serves")
    assert len(head.pids("shard_server --index")) == 3
    assert read_state("default") is None
    run(*shoal, "attach", "--on", "ray")
    attached = read_state("default")
    assert attached is not None
    assert attached.target == f"127.0.0.1:{port}"
    assert (attached.index, attached.version, len(attached.processes)) == ("axes", 1, 4)
    for command in (["status"], ["reload"], ["scale", "shard=1"]):
        run(*shoal, *command)
    poll(lambda: len(head.pids("shard_server --index")) == 2, within_s=30.0, what="scaled down")
    unknown = run_shoal(head, "attach", "--name", "nobody")
    assert (unknown.returncode, unknown.stderr.count("\n")) == (66, 1)
    assert "it has default" in unknown.stderr
    run(*shoal, "down")
    poll(lambda: not head.pids("shard_server"), within_s=60.0, what="all processes are gone")


def found(target: str) -> list[str]:
    """The best passage's id; empty where nobody answers yet."""
    from shoal.errors import ShoalError

    try:
        with Client(target) as client:
            vector = np.eye(8, dtype=np.float32)[3]
            return [hit.id for hit in client.search(vector=vector, k=1, timeout_s=5).hits]
    except ShoalError:
        return []
