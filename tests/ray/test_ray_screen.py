"""The status screen of a cluster on Ray, from values."""

import dataclasses

from deploy.cli import status as command
from deploy.load import ProcessLoad
from deploy.ray.registry import Member, Part
from deploy.ray.screen import ray_screen
from deploy.ray.spread import shared_nodes
from deploy.ray.status import (
    DeploymentStatus,
    NodeStatus,
    RayClusterStatus,
    ReplicaStatus,
    least_coverage,
    replica_status,
)
from shoal.internal.v1 import admin_pb2 as pb

LOAD = ProcessLoad(in_flight=2, queued=1, qps=50.0, refused_per_s=4.0, wait_s=0.0, busy=0.1)


def replica(deployment, role, views, **more):
    values = {
        "replica": "abc", "deployment": deployment, "role": role, "node": "n1", "host": "10.0.0.1",
        "address": "10.0.0.1:5", "pid": 7, "phase": "serving", "n_restarts": 0,
        "router_views": views, "versions": (3,), "log": "/x.log", "load": LOAD, **more,
    }  # fmt: skip
    return ReplicaStatus(**values)


REPORT = RayClusterStatus(
    name="c", application="RUNNING", ray_address="10.0.0.1:6379", target="ipv4:10.0.0.1:5",
    index="books", version=3, coverage=1.0,
    replicas=(
        replica("encoder", "encoder", ("HEALTHY", "HEALTHY")),
        replica("shard-3", "shard", ("HEALTHY", "EJECTED"), n_restarts=2),
        replica("router", "router", (), versions=()),
        replica("router", "router", (), versions=(), load=None),
    ),
    deployments=(
        DeploymentStatus(name="encoder", status="UPSCALING", n_running=1, n_wanted=2,
                         message="no GPU"),
        DeploymentStatus(name="shard-3", status="HEALTHY", n_running=1, n_wanted=1, message=""),
    ),
    nodes=(
        NodeStatus(node="n1", host="10.0.0.1", n_replicas=4, resources={"CPU": 8.0, "GPU": 1.0},
                   free={"CPU": 4.0}),
        NodeStatus(node="n2", host="10.0.0.2", n_replicas=0, resources={"CPU": 8.0},
                   free={"CPU": 8.0}),
    ),
)  # fmt: skip


def test_nodes_replicas_and_what_is_missing_are_on_one_screen(capsys):
    """What each node has taken, what each router says, and what Serve still wants."""
    screen = ray_screen(REPORT)
    assert not screen.is_well
    assert [line.part for line in screen.lines] == ["encoder", "shard 3", "router", "router"]
    command.show(screen)
    shown = capsys.readouterr().out
    for said in (
        "on Ray at 10.0.0.1:6379: RUNNING", "4 of 8", "1 of 1", "0 of 8", "HEALTHY x2",
        "HEALTHY, EJECTED", "encoder: 1 of 2 running no GPU",
        "50 queries/s, 2 in flight, 4/s refused",
    ):  # fmt: skip
        assert said in shown
    assert "shard-3: 1 of 1" not in shown


def test_all_well_is_well():
    """Exit code 0 where every router uses every replica."""
    well = tuple(
        dataclasses.replace(told, router_views=("HEALTHY",) * len(told.router_views))
        for told in REPORT.replicas
    )
    assert ray_screen(dataclasses.replace(REPORT, replicas=well)).is_well


def test_a_router_that_does_not_answer_is_not_well():
    """Everything may live, and a caller of that router still gets nothing."""
    router = Part(name="router", role="router")
    member = Member(replica="r", part=router, node="n", host="h", address="h:1", phase="serving")
    answering = replica_status(member, {"h:1": pb.GetTopologyResponse()})
    silent = replica_status(member, {"h:1": "DEADLINE_EXCEEDED: "})
    assert (answering.healthy, silent.healthy) == (True, False)
    assert silent.router_views == ("DEADLINE_EXCEEDED: ",)
    assert least_coverage(["DEADLINE_EXCEEDED: "], "books") == 0.0


def test_a_cluster_whose_routers_reach_a_part_is_not_well():
    """A shard without any replica is in no list of replicas."""
    well = tuple(dataclasses.replace(told, router_views=()) for told in REPORT.replicas)
    report = dataclasses.replace(REPORT, replicas=well, coverage=0.75)
    assert not report.healthy
    assert dataclasses.replace(report, coverage=1.0).healthy


def test_replicas_that_share_their_node_are_told_of():
    """Two replicas of a shard are for the day when a node is gone."""
    shared = [("shard-0", "a"), ("shard-0", "a"), ("shard-1", "a"), ("shard-1", "b")]
    assert "together: shard-0; " in shared_nodes(shared, 2)
    assert shared_nodes(shared, 1) == ""  # nothing could be done about it
    assert shared_nodes([("encoder", "a"), ("shard-1", "a")], 2) == ""
    assert "router" in ray_screen(REPORT).notes[-1]
