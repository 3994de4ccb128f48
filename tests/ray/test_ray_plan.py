"""What runs on Ray and how it is started: options, deployments, child processes, GPU shares."""

from pathlib import Path

import pytest

from deploy.cli.on_ray import callers_hint
from deploy.plan import IndexFacts
from deploy.ray.application import app_config, is_ours, program_mark
from deploy.ray.counts import bounds_of, rescaled
from deploy.ray.gpu_share import gpu_share
from deploy.ray.options import RayOptions, check_doors, ray_options
from deploy.ray.placing import Waiting, missing_room
from deploy.ray.processes import child_spec, lacking_cpus, plan_deployments
from deploy.ray.progress import Progress, failure_of
from deploy.ray.registry import Part
from deploy.ray.scaling import Bounds
from shoal.errors import ConfigError, StorageError

INDEX = IndexFacts(name="wiki", version=3, n_shards=2, encoder_model="minilm")
BARE = IndexFacts(name="wiki", version=3, n_shards=1, encoder_model=None)
TLS = {"tls_certificate": "/t/crt", "tls_key": "/t/key"}


def options(**values):
    return ray_options({"index": "/data/wiki", **values})


def test_a_deployment_a_shard_one_for_the_encoder_and_the_routers_last():
    """The last is the application's root, which reaches all others."""
    plans = plan_deployments(options(replicas=3, encoders=2, routers=2), INDEX, 0)
    assert [(p.part.name, p.n_replicas) for p in plans] == [
        ("shard-0", 3), ("shard-1", 3), ("encoder", 2), ("router", 2),
    ]  # fmt: skip
    assert [p.part.name for p in plan_deployments(options(), BARE, 0)] == ["shard-0", "router"]


def test_a_replica_more_rolls_first_only_where_it_needs_nothing_that_an_old_one_holds():
    """A GPU may be full of the old replica, and a router's port is taken by it."""
    plans = {p.part.name: p for p in plan_deployments(options(port=7), INDEX, 0.5)}
    assert plans["shard-0"].surge_percent == 0
    assert plans["shard-0"].actor_options == {"num_cpus": 1, "num_gpus": 0.5}
    assert plans["encoder"].surge_percent > 0
    assert (plans["router"].surge_percent, plans["router"].one_a_node) == (0, True)


def test_a_shards_child_is_the_program_that_runs_everywhere():
    """The version is the pinned one, and the cores are those that Ray reserved."""
    part = Part(name="shard-1", role="shard", shard=1)
    spec = child_spec(part, options(shard_cpus=4, device="cpu"), INDEX, name="shard-1.x",
                      host="10.0.0.7", version=8)  # fmt: skip
    assert spec.arguments == (
        "--index", "/data/wiki", "--shard", "1", "--version", "8", "--device", "cpu",
        "--host", "10.0.0.7",
    )  # fmt: skip
    assert spec.environment == {
        "OMP_NUM_THREADS": "4", "OMP_WAIT_POLICY": "PASSIVE", "CUDA_VISIBLE_DEVICES": "",
    }  # fmt: skip
    on_gpu = child_spec(part, options(shard_gpus=0.5), INDEX, name="a", host="h", version=8)
    assert "CUDA_VISIBLE_DEVICES" not in on_gpu.environment
    assert spec.port == 0


def test_traces_go_from_every_replica_and_the_router_decides_which():
    """The settings of a cluster on Ray are those of a local one, as its processes' own flags."""
    given = options(traces_otlp="collector:4317", trace_sample=1)
    for role in ("shard", "encoder", "router"):
        part = Part(name=role, role=role, shard=0)
        told = child_spec(part, given, INDEX, name="n", host="h", version=1).arguments
        assert told[told.index("--traces-otlp") + 1] == "collector:4317"
        assert ("--trace-sample" in told) == (role == "router")


def test_too_few_cpus_are_told_and_not_refused():
    """Ray's autoscaler may bring nodes; without it, replicas would wait for ever without a word."""
    plans = plan_deployments(options(replicas=2, shard_cpus=0.5), INDEX, 0)
    assert lacking_cpus(plans, 4.0) == ""
    assert "has 3 CPUs and this reserves 4" in lacking_cpus(plans, 3.0)


def test_an_index_at_a_url_is_copied_on_each_node():
    """Every node has its own copy, in the same folder."""
    part = Part(name="shard-0", role="shard", shard=0)
    given = ray_options({"index": "s3://bucket/wiki", "cache_dir": "/cache"})
    spec = child_spec(part, given, INDEX, name="n", host="::1", version=1)
    assert spec.arguments[:4] == ("--index", "s3://bucket/wiki", "--cache-dir", "/cache")


def test_each_router_gets_the_recall_s_budget():
    """Routers alone measure; a budget of 0 is given on like any other."""
    given = options(live_recall_budget=0)
    router = child_spec(Part(name="router", role="router"), given, INDEX, name="a", host="::1",
                        version=1)  # fmt: skip
    shard = child_spec(Part(name="shard-0", role="shard", shard=0), given, INDEX, name="a",
                       host="::1", version=1)  # fmt: skip
    assert router.arguments[2:4] == ("--live-recall-budget", "0.0")
    assert "--live-recall-budget" not in shard.arguments


def test_a_closed_cluster_serves_tls_everywhere_and_shares_a_token_by_file():
    """Only routers know the operator's tokens; shards answer the cluster's own processes alone."""
    closed = options(**TLS, tls_ca="/t/ca", tls_server_name="shoal", tokens="/t/tokens", port=50051)
    token = Path("/state/a.token")
    shard = child_spec(Part(name="shard-0", role="shard", shard=0), closed, INDEX, name="a",
                       host="10.0.0.7", version=1, token=token)  # fmt: skip
    router = child_spec(Part(name="router", role="router"), closed, INDEX, name="a",
                        host="10.0.0.7", version=1, port=9, token=token)  # fmt: skip
    assert shard.arguments[-6:] == ("--tls-certificate", "/t/crt", "--tls-key", "/t/key",
                                    "--internal-token-file", str(token))  # fmt: skip
    assert "--tokens" not in shard.arguments
    for flag, value in (("--tokens", "/t/tokens"), ("--peer-tls-ca", "/t/ca"),
                        ("--peer-server-name", "shoal"), ("--peer-token-file", str(token)),
                        ("--topology-source", "leases")):  # fmt: skip
        assert router.arguments[router.arguments.index(flag) + 1] == value
    assert router.port == 50051


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"tls_key": "/k"}, "come together"),
        ({"tokens": "/t", "tls_ca": "/c"}, "tls_ca"),
        ({"gpu_memory_bytes": 5, "shard_gpus": 1}, "one of them"),
        ({"replicas": 0}, "replicas"),
        ({"shard_cpus": -1}, "shard_cpus"),
        ({"unknown": 1}, "unknown"),
        ({"name": "A b"}, "name"),
        ({"device": "cuda:1"}, "device"),
    ],
)
def test_wrong_options_are_one_line_that_names_them(values, said):
    """They come from flags, and from a Serve config that anybody writes."""
    with pytest.raises(ConfigError, match=said) as refused:
        options(**values)
    assert "\n" not in refused.value.message


def test_open_doors_are_refused_where_other_machines_reach_them():
    """Loopback alone needs nothing; tokens never cross a network in plaintext."""
    check_doors(options(), ["127.0.0.2"])
    check_doors(options(host="127.0.0.1"), ["10.0.0.7"])
    check_doors(options(insecure=True), ["10.0.0.7"])
    check_doors(options(**TLS, tokens="/t"), ["10.0.0.7"])
    for values, hosts, said in (
        ({}, ["127.0.0.1", "10.0.0.7"], "10.0.0.7 .* in plaintext and without tokens"),
        (TLS, ["10.0.0.7"], "without tokens; give"),
        ({"tokens": "/t", "insecure": True}, ["10.0.0.7"], "in plaintext; give --tls"),
        ({"host": "0.0.0.0"}, ["127.0.0.1"], "0.0.0.0"),
        ({"host": "127.0.0.1"}, ["10.0.0.7", "10.0.0.8"], "don't reach each other"),
    ):
        with pytest.raises(ConfigError, match=said):
            check_doors(options(**values), hosts)


def test_counts_are_no_arguments():
    """Serve hashes the arguments into every deployment's version: a count must not be there."""
    given = options(replicas=3, encoders=2, routers=2, grace_s=5.0)
    config = app_config(given, {"router": 2, "shard-0": 3}, {"working_dir": "gcs://x", "job": 1})
    assert config["args"] == {"index": "/data/wiki", "grace_s": 5.0}
    assert config["runtime_env"] == {"working_dir": "gcs://x"}
    assert RayOptions.model_validate(config["args"]).grace_s == 5.0
    more = rescaled(config, {"shard-0": Bounds(least=4, most=4)})
    assert more["args"] == config["args"]
    assert bounds_of(more, "shard-0") == Bounds(least=4, most=4)
    assert bounds_of(more, "router") == Bounds(least=2, most=2)
    assert is_ours(more)


def test_a_program_is_known_by_its_content():
    """The same modules give the same mark, so that `up` given twice restarts nothing."""
    assert program_mark() == program_mark()


def test_a_share_of_a_gpu_is_rounded_up_and_never_above_one():
    """Ray packs replicas by this number: rounded down, one more than fits would be placed."""
    assert gpu_share(40, 80) == 0.5
    assert gpu_share(1, 3) == 0.3334
    assert gpu_share(80, 80) == 1.0
    with pytest.raises(ConfigError, match=r"81\.0 GB .* 80\.0 GB"):
        gpu_share(81 * 10**9, 80 * 10**9)


class Status:
    """As Serve's `ApplicationStatusOverview`."""

    def __init__(self, status, message="", **running):
        self.status, self.message = status, message
        self.deployments = {
            name: Status.__new__(Status) for name in running
        }  # fmt: skip
        for name, count in running.items():
            self.deployments[name].replica_states = {"RUNNING": count, "STARTING": 1}
            self.deployments[name].message = ""


def test_progress_is_told_once_a_change():
    """A start may take an hour; a line a poll would be thousands."""
    progress = Progress(counts={"shard-0": 2, "router": 1})
    progress, lines = progress.seen(Status("DEPLOYING", **{"shard-0": 1}))
    assert lines == ["shard-0: 1 of 2 running"]
    progress, lines = progress.seen(Status("DEPLOYING", **{"shard-0": 1, "router": 1}))
    assert lines == ["router: 1 of 1 running"]
    assert progress.missing == "shard-0 runs 1 of 2"
    assert not progress.whole


def test_a_replicas_own_error_comes_back_as_it_was_raised():
    """Serve gives a traceback as text; the command ends with that line and its exit code."""
    text = (
        "Traceback ...\n  File x\nshoal.errors.StorageError: shard-0 could not start: disk\n\nmore"
    )
    failure = failure_of(Status("DEPLOY_FAILED", text))
    assert isinstance(failure, StorageError)
    assert failure.message == "shard-0 could not start: disk"
    other = failure_of(Status("DEPLOY_FAILED", "Traceback\nModuleNotFoundError: No module 'x'\n"))
    assert other is not None
    assert "No module 'x'" in other.message
    assert failure_of(Status("DEPLOYING", text)) is None


def test_what_no_node_holds_is_named_with_what_it_needs():
    """Two nodes: CPUs that are free on both don't add up, and one port is for one router each."""
    given = options(replicas=2, shard_cpus=2, routers=3, port=50051)
    plans = plan_deployments(given, BARE, 0.5)
    nodes_of = {"shard-0": ["a", None], "router": ["a", "b", None]}
    free = {"a": {"CPU": 1.0, "GPU": 1.0}, "b": {"CPU": 3.0}}
    told = missing_room(plans, nodes_of, free, given.port)
    assert "shard-0: room for 0 of 1 more (each needs 2 CPU, 0.5 GPU)" in told
    assert "router: room for 0 of 1 more (each needs 1 CPU, 1 port 50051)" in told
    assert told.endswith("2 nodes have left: 4 CPU, 1 GPU, 0 port 50051")
    assert missing_room(plans, {"shard-0": ["a", "a"]}, free, given.port) == ""
    free["c"] = {"CPU": 8.0, "GPU": 2.0}
    assert missing_room(plans, nodes_of, free, given.port) == ""


def test_a_wait_for_room_is_told_after_a_while_and_not_again():
    """Ray takes a moment to place what fits; a line a look would be thousands."""
    waiting, lines = Waiting(), []
    for now_s, missing in (
        (0, "x"), (1, ""), (2, "x"), (6, "x"), (7, "x"), (8, "x"), (9, "y"), (36, "y"), (38, "y"),
    ):  # fmt: skip
        waiting, line = waiting.seen(missing, float(now_s))
        lines.append((now_s, line))
    assert [(at_s, line[:19]) for at_s, line in lines if line] == [
        (7, "waiting for room: x"), (38, "waiting for room: y"),
    ]  # fmt: skip
    assert waiting.missing == "y"


def test_callers_are_told_the_name_that_a_list_of_hosts_needs():
    """Over TLS a client refuses several hosts without one: no certificate could be told right."""
    many = "ipv4:10.0.0.1:50051,10.0.0.2:50051"
    told = callers_hint(many, "/t/ca", "shoal.example", "other")
    assert told.endswith(f"--target {many} --tls-ca /t/ca --tls-server-name shoal.example")
    assert callers_hint(many, "/t/ca", "", "in.it").endswith(" --tls-server-name in.it")
    assert "--tls-server-name" not in callers_hint("10.0.0.1:50051", "/t/ca", "", "in.it")
    assert "--tls-server-name" not in callers_hint("ipv4:10.0.0.1:1,10.0.0.1:2", "/t", "", "in.it")
