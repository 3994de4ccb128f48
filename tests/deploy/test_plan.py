"""What is started, as values."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.plan import (
    IndexFacts,
    UpOptions,
    plan_backends,
    plan_router,
    restart_delay_s,
    topology_of,
)
from deploy.state import paths_of
from deploy.traces import Traces
from shoal.errors import ConfigError, InvalidArgumentError

OPTIONS = UpOptions(name="x", index_dir=Path("/i"), replicas=2)
FACTS = IndexFacts(name="greek", version=3, n_shards=2, encoder_model="m")


def test_every_replica_of_every_shard_and_one_encoder():
    """Two shards with two replicas, and the encoder of the index's model."""
    specs = plan_backends(OPTIONS, FACTS, n_cores=8)
    assert [spec.name for spec in specs] == [
        "encoder", "shard-0a", "shard-0b", "shard-1a", "shard-1b"]  # fmt: skip
    assert specs[0].arguments == ("--model", "m")
    assert specs[1].arguments == ("--index", "/i", "--version", "3", "--shard", "0")


def test_an_index_of_bare_vectors_has_no_encoder():
    """Without a contract there is no model that could encode for it."""
    facts = IndexFacts(name="v", version=1, n_shards=1, encoder_model=None)
    options = UpOptions(name="x", index_dir=Path("/i"))
    assert [spec.role for spec in plan_backends(options, facts, n_cores=2)] == ["shard"]
    with pytest.raises(ConfigError, match="bare vectors"):
        plan_backends(replace(options, model="m"), facts, n_cores=2)


@given(n_cores=st.integers(1, 64), n_shards=st.integers(1, 16), replicas=st.integers(1, 4))
def test_shards_share_the_cores(n_cores, n_shards, replicas):
    """All search threads together fit the cores, or each process has one; the encoder has all."""
    options = UpOptions(name="x", index_dir=Path("/i"), replicas=replicas)
    facts = IndexFacts(name="g", version=1, n_shards=n_shards, encoder_model="m")
    encoder, *shards = plan_backends(options, facts, n_cores)
    threads = [int(spec.environment["OMP_NUM_THREADS"]) for spec in shards]
    assert len(set(threads)) == 1
    assert sum(threads) <= n_cores or set(threads) == {1}
    assert encoder.environment["OMP_NUM_THREADS"] == str(n_cores)
    assert {spec.environment["OMP_WAIT_POLICY"] for spec in (encoder, *shards)} == {"PASSIVE"}


def test_the_topology_lists_each_address_in_its_place():
    """Shards by number, replicas together, the encoder apart: the file that the router reads."""
    specs = plan_backends(OPTIONS, FACTS, n_cores=2)
    assert topology_of(FACTS, specs, ["e", "0a", "0b", "1a", "1b"]) == {
        "format": 1,
        "indexes": [{"name": "greek", "version": 3, "shards": [["0a", "0b"], ["1a", "1b"]]}],
        "encoders": ["e"],
    }


@pytest.mark.parametrize("insecure", [True, False])
def test_the_router_listens_where_it_is_told(insecure):
    """Host and port are the operator's, and exposing it is never implied."""
    options = UpOptions(name="x", index_dir=Path("/i"), host="0.0.0.0", port=7, insecure=insecure)
    spec = plan_router(options, paths_of("x"))
    assert spec.port == 7
    assert spec.arguments[2:4] == ("--host", "0.0.0.0")
    assert ("--insecure" in spec.arguments) is insecure


@pytest.mark.parametrize("budget", [None, 0.0, 0.25])
def test_the_router_gets_the_recall_s_budget_it_was_given(budget):
    """0 is a wish like any other: it turns measuring off; None leaves the router its default."""
    options = UpOptions(name="x", index_dir=Path("/i"), live_recall_budget=budget)
    given = plan_router(options, paths_of("x")).arguments
    if budget is None:
        assert "--live-recall-budget" not in given
    else:
        assert given[given.index("--live-recall-budget") + 1] == str(budget)


def test_the_console_is_off_and_on_loopback_unless_asked_for():
    """Whatever --host says: who opens gRPC to others hasn't opened a web page."""
    options = UpOptions(name="x", index_dir=Path("/i"), host="0.0.0.0", insecure=True)
    spec = plan_router(options, paths_of("x"))
    assert spec.http_port is None
    assert "--http-host" not in spec.arguments
    spec = plan_router(replace(options, http_port=0), paths_of("x"))
    assert spec.http_port == 0
    assert spec.arguments[spec.arguments.index("--http-host") + 1] == "127.0.0.1"


def test_restarts_slow_down():
    """0.2 s, doubling, never more than 10 s."""
    delays = [restart_delay_s(n) for n in range(1, 12)]
    assert delays[:4] == [0.2, 0.4, 0.8, 1.6]
    assert delays == sorted(delays)
    assert delays[-1] == 10.0
    assert restart_delay_s(10_000) == 10.0


def test_every_process_is_told_where_traces_go_and_the_router_which():
    """A trace needs each process's part; which searches have one is the router's to decide."""
    traces = Traces(otlp="collector:4317", sample=0.5, ca=Path("/ca.pem"))
    options = replace(OPTIONS, traces=traces)
    told = ("--traces-otlp", "collector:4317", "--traces-ca", "/ca.pem")
    backends = plan_backends(options, FACTS, n_cores=2)
    assert all(spec.arguments[-4:] == told for spec in backends)
    router = plan_router(options, paths_of("x"))
    assert router.arguments[-6:] == (*told, "--trace-sample", "0.5")
    for spec in (*plan_backends(OPTIONS, FACTS, n_cores=2), plan_router(OPTIONS, paths_of("x"))):
        assert not any("trace" in argument for argument in spec.arguments), "off unless asked for"


@pytest.mark.parametrize("given", [{"sample": 0.5}, {"ca": Path("/ca.pem")}])
def test_a_share_of_traces_that_go_nowhere_is_refused(given):
    """Whoever gives one expects traces."""
    with pytest.raises(InvalidArgumentError, match="--traces-otlp"):
        Traces(**given)
