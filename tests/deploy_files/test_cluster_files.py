"""The files for `ray up`, through Ray's own preparation and schema, and the promises they make."""

import re
import shlex
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
FILES = ("cluster.yaml", "cluster.local.yaml")


def _given(name):
    return yaml.safe_load((ROOT / "deploy" / name).read_text())


@pytest.fixture(params=FILES)
def prepared(request):
    """The file as `ray up` completes it from its defaults, before it asks any cloud."""
    from ray.autoscaler._private.util import prepare_config

    return prepare_config(_given(request.param))


def _starts(config):
    """Each node's `ray start` as (environment, flags)."""
    for which in ("head", "worker"):
        (line,) = [c for c in config[f"{which}_start_ray_commands"] if "ray start" in c]
        exports, _, rest = line.partition(";")
        words = shlex.split(rest.partition("ray start")[2])
        yield (
            dict(word.split("=", 1) for word in shlex.split(exports)[1:]),
            {flag.partition("=")[0]: flag.partition("=")[2] for flag in words},
        )


def test_ray_takes_the_file(prepared):
    """Ray checks a cluster file against its JSON schema before it starts a machine."""
    from ray.autoscaler._private.util import validate_config

    validate_config(prepared)


def test_ray_refuses_the_file_with_an_unknown_field(prepared):
    """The check above is one that can fail."""
    from jsonschema import ValidationError
    from ray.autoscaler._private.util import validate_config

    with pytest.raises(ValidationError):
        validate_config({**prepared, "start_comands": []})


def test_every_flag_of_ray_start_is_one(prepared):
    """A misspelt flag ends `ray start` on the node, minutes into `ray up`."""
    from ray.scripts.scripts import start

    known = {flag for parameter in start.params for flag in parameter.opts}
    assert {flag for _, flags in _starts(prepared) for flag in flags} <= known


def test_nobody_starts_a_task_without_a_token(prepared):
    """`ray start` leaves authentication off unless it is told, and the token must be there."""
    assert [environment["RAY_AUTH_MODE"] for environment, _ in _starts(prepared)] == ["token"] * 2
    assert prepared["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"


def test_the_dashboard_stays_on_loopback(prepared):
    """It takes jobs: whoever reaches it runs code on the cluster (CVE-2023-48022)."""
    head, worker = (flags for _, flags in _starts(prepared))
    assert head["--dashboard-host"] == "127.0.0.1"
    assert "--dashboard-host" not in worker


def test_nodes_outlive_a_head_that_is_away(prepared):
    """A raylet ends its node's replicas after 60 s without the head, unless it is told."""
    assert [e["RAY_gcs_rpc_server_reconnect_timeout_s"] for e, _ in _starts(prepared)] == [
        "300"
    ] * 2


def test_on_premise_workers_are_started():
    """Autoscaler 2 doesn't know an on-premise cluster's head, and starts no worker."""
    head, _ = _starts(_given("cluster.local.yaml"))
    assert head[0]["RAY_enable_autoscaler_v2"] == "0"


@pytest.mark.parametrize("name", FILES)
def test_what_is_copied_from_the_checkout_is_there(name):
    """`ray up` refuses a file mount whose source is missing; `dist` is what the build makes."""
    sources = [path for path in _given(name)["file_mounts"].values() if not path.startswith("~")]
    assert "dist" in sources
    assert all((ROOT / path).exists() for path in sources if path != "dist")


@pytest.mark.parametrize("name", FILES)
def test_the_extras_that_are_installed_exist(name):
    """pip only warns of an extra that a wheel lacks, and the process fails when it imports."""
    import tomllib

    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    text = (ROOT / "deploy" / name).read_text()
    (installed,) = re.findall(r"shoal-\*\.whl[^\[]*\[([a-z,-]+)\]", text)
    assert set(installed.split(",")) <= set(extras)
    assert {"ray", "router", "encoder", "shard"} <= set(installed.split(","))


def test_aws_grows_both_kinds_of_workers():
    """A cluster is two CPU nodes at least, so that replicas can be apart, and GPUs on demand."""
    types = _given("cluster.yaml")["available_node_types"]
    assert types["head"]["resources"] == {"CPU": 0}
    assert types["cpu_worker"]["min_workers"] >= 2
    assert types["gpu_worker"]["min_workers"] == 0 < types["gpu_worker"]["max_workers"]


def test_aws_opens_no_port_of_ray():
    """Backends reach the routers, and nobody reaches Ray."""
    rules = _given("cluster.yaml")["provider"]["security_group"]["IpPermissions"]
    assert [(rule["FromPort"], rule["ToPort"]) for rule in rules] == [(50051, 50051)]
