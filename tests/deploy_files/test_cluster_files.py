"""The files for `ray up`, through Ray's own preparation and schema, and the promises they make."""

import os
import re
import shlex
import subprocess
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


def test_searches_go_at_the_priority_of_other_programs(prepared):
    """Ray starts its workers, and so ours, at nice 15: behind all else on a full node."""
    assert [e["RAY_worker_niceness"] for e, _ in _starts(prepared)] == ["0"] * 2


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


def _pip_calls(name, home):
    """What the set-up commands of the file ask of pip, run for real in a home with two wheels."""
    pip, called = home / "shoal-env/bin/pip", home / "called"
    pip.parent.mkdir(parents=True)
    pip.write_text(f'#!/bin/sh\necho "$@" >> {called}\n')
    (pip.parent / "python").write_text("#!/bin/sh\n")
    for program in pip.parent.iterdir():
        program.chmod(0o755)
    (home / "shoal-wheel").mkdir()
    for age, wheel in enumerate(("shoal-2.0-py3-none-any.whl", "shoal-1.0-py3-none-any.whl")):
        (home / "shoal-wheel" / wheel).touch()
        os.utime(home / "shoal-wheel" / wheel, (1e9 - age, 1e9 - age))
    for command in _given(name)["setup_commands"]:
        subprocess.run(
            ["/bin/sh", "-c", command],
            check=True,
            timeout=30,
            env={**os.environ, "HOME": str(home)},
        )
    return [line.split() for line in called.read_text().splitlines()]


@pytest.mark.parametrize("name", FILES)
def test_a_new_program_of_the_same_version_is_installed(name, tmp_path):
    """pip leaves a version that is there as it is: a node would go on with the old program."""
    with_others, alone = _pip_calls(name, tmp_path)
    wheel = str(tmp_path / "shoal-wheel/shoal-2.0-py3-none-any.whl")
    assert with_others[-1].partition("[")[0] == wheel
    assert alone[-1] == wheel
    assert {"install", "--force-reinstall", "--no-deps"} <= set(alone)


def test_aws_workers_read_the_index_and_the_head_starts_them():
    """Ray gives a profile to the head alone, and only where it has none: shards couldn't open
    s3://, and that profile can't pass the workers' role on.
    """
    types = _given("cluster.yaml")["available_node_types"]
    profiles = {name: each["node_config"]["IamInstanceProfile"] for name, each in types.items()}
    assert set(profiles) == {"head", "cpu_worker", "gpu_worker"}
    assert profiles["cpu_worker"] == profiles["gpu_worker"] != profiles["head"]
    assert all(
        re.fullmatch(r"arn:aws:iam::ACCOUNT:instance-profile/[a-z-]+", profile["Arn"])
        for profile in profiles.values()
    )


def test_aws_waits_for_ubuntus_own_apt():
    """A fresh machine installs updates of its own at first, and holds the lock meanwhile."""
    first, install = _given("cluster.yaml")["initialization_commands"]
    assert first.startswith("cloud-init status --wait")
    assert install.count("apt-get") == install.count("-o DPkg::Lock::Timeout=300") == 2


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
