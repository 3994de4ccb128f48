"""What a build on Ray asks of the cluster: what one node can give, and no more."""

import itertools
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.ray.building import filling
from deploy.ray.building.cluster import settled_nodes
from deploy.ray.building.placement import Node, Placement, cpus_a_task, lacks, place_encoders
from deploy.ray.building.shared_folder import begin_tasks, has_begun, leave_mark, say_begun
from shoal.errors import ConfigError, UnavailableError


def node(n_cpus, n_gpus=0, *, free_cpus=None, free_gpus=None):
    """A node of which all is free, unless said."""
    return Node(
        n_cpus=n_cpus,
        n_gpus=n_gpus,
        free_cpus=n_cpus if free_cpus is None else free_cpus,
        free_gpus=n_gpus if free_gpus is None else free_gpus,
    )


CPU_NODE, GPU_NODE = node(16), node(48, 4)
SERVES, FULL = node(16, free_cpus=15), node(16, free_cpus=0.5)


@st.composite
def _nodes(draw):
    cpus, gpus = draw(st.integers(1, 256)), draw(st.integers(0, 8))
    return node(
        cpus,
        gpus,
        free_cpus=draw(st.floats(0, cpus)),
        free_gpus=draw(st.integers(0, gpus)),
    )


NODES = st.lists(_nodes(), min_size=1, max_size=20)


@pytest.mark.parametrize(
    ("nodes", "wanted", "device", "n_encoders", "cpus_each", "gpus_each"),
    [
        ([CPU_NODE], None, "auto", 1, 16, 0),
        ([CPU_NODE], 2, "auto", 2, 8, 0),
        ([CPU_NODE] * 3, None, "auto", 3, 16, 0),
        ([CPU_NODE] * 2, 5, "auto", 5, 5, 0),
        ([CPU_NODE, GPU_NODE], None, "auto", 4, 12, 1),
        ([CPU_NODE, GPU_NODE], 6, "auto", 6, 12, 1),
        ([CPU_NODE, GPU_NODE], None, "cpu", 2, 16, 0),
        ([node(0), CPU_NODE], None, "auto", 1, 16, 0),
        ([node(2, 4)], None, "auto", 4, 1, 1),
        ([CPU_NODE], 40, "auto", 40, 1, 0),
        # beside a cluster that serves: what is left of each node, or those with enough left
        ([SERVES] * 3, None, "auto", 3, 15, 0),
        ([SERVES, FULL], None, "auto", 1, 15, 0),
        ([SERVES, node(16, free_cpus=1)], 2, "auto", 2, 7, 0),
        ([FULL] * 2, None, "auto", 2, 1, 0),
        ([node(48, 4, free_cpus=20, free_gpus=2)], None, "auto", 2, 10, 1),
        ([node(48, 4, free_cpus=20, free_gpus=0)], None, "auto", 4, 1, 1),
    ],
)
def test_encoders_go_by_gpus_then_by_nodes(nodes, wanted, device, n_encoders, cpus_each, gpus_each):
    """A head without CPUs gets none; more than there are GPUs wait for the cluster to grow."""
    assert place_encoders(nodes, wanted, device) == Placement(
        n_encoders=n_encoders, cpus_each=cpus_each, gpus_each=gpus_each
    )


@given(NODES, st.none() | st.integers(1, 64))
def test_an_encoder_fits_what_is_free_of_a_node(nodes, wanted):
    """Else Ray would wait for it silently: a node that serves never has all its CPUs free."""
    placement = place_encoders(nodes, wanted, "auto")
    assert placement.n_encoders >= 1
    assert any(
        node.n_cpus >= placement.cpus_each and node.n_gpus >= placement.gpus_each for node in nodes
    )
    if any(node.free_cpus >= 1 and node.free_gpus >= placement.gpus_each for node in nodes):
        assert not lacks(nodes, n_cpus=placement.cpus_each, n_gpus=placement.gpus_each)


@given(NODES, st.integers(1, 300))
def test_a_task_fits_what_is_free_of_a_node(nodes, n_tasks):
    """And all of them run side by side where there is a free CPU for each."""
    n_cpus = cpus_a_task(nodes, n_tasks)
    free = [node.free_cpus for node in nodes if node.free_cpus >= 1]
    assert n_cpus == 1 or (n_cpus <= max(free) and n_cpus * n_tasks <= sum(free))
    assert bool(lacks(nodes, n_cpus=n_cpus, n_gpus=0)) == (not free)


def test_a_cluster_without_cpus_is_refused():
    """`ray start --head --num-cpus=0` alone: a build would wait for ever."""
    with pytest.raises(ConfigError, match="ray status"):
        place_encoders([node(0)], None, "auto")


def test_what_the_first_waits_for_is_said():
    """What is free on several nodes doesn't add up: a build that seems stuck must say why."""
    nodes = [node(8, 1, free_cpus=2), node(8, free_cpus=6)]
    assert lacks(nodes, n_cpus=2, n_gpus=1) == ""
    assert lacks(nodes, n_cpus=4, n_gpus=1).startswith("a node that has a GPU and 4 CPUs free")
    assert lacks(nodes, n_cpus=8, n_gpus=0) == "a node that has 8 CPUs free: see 'ray status'"


def test_placements_are_said():
    """As the command notes them."""
    gpu = Placement(n_encoders=2, cpus_each=4, gpus_each=1)
    assert gpu.in_words() == "2 encoders with a GPU and 4 CPUs each"
    assert Placement(n_encoders=1, cpus_each=1, gpus_each=0).in_words() == "1 encoder with 1 CPU"


def test_what_our_own_encoders_held_is_waited_for():
    """Ray tells it as free some time after they end; tasks would be given one CPU else."""
    told = iter([[FULL], [FULL], [SERVES]])
    assert settled_nodes([SERVES], read=lambda: next(told), sleep=lambda _: None) == [SERVES]


def test_what_others_took_meanwhile_is_not_waited_for():
    """They may serve for ever: tasks go by what is there."""
    slept = []
    assert settled_nodes([SERVES], read=lambda: [FULL], sleep=slept.append) == [FULL]
    assert sum(slept) == pytest.approx(5.0)


class _NeverDone:
    """Of Ray, what `_as_done` calls."""

    def __init__(self):
        self.cancelled = []

    def wait(self, refs, *, timeout):
        return [], refs

    def cancel(self, ref):
        self.cancelled.append(ref)


def test_tasks_that_never_begin_end_the_build(tmp_path, monkeypatch):
    """It waited silently and for ever; a task that has begun may take hours."""
    never, clock = _NeverDone(), itertools.count(0.0, 600.0)
    monkeypatch.setattr(filling, "ray", never)
    monkeypatch.setattr(filling, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    mark = leave_mark(tmp_path)
    with pytest.raises(UnavailableError, match=r"had 3 of its CPUs free .* in 30 minutes"):
        next(filling._as_done({"ref": 0}, mark, 3))
    assert never.cancelled == ["ref"]
    assert next(clock) < 4000.0

    say_begun(mark)
    looks = iter([([], ["ref"])] * 100 + [(["ref"], [])])
    never.wait = lambda refs, *, timeout: next(looks)
    never.get = lambda ref: "result"
    assert list(filling._as_done({"ref": 0}, mark, 3)) == [(0, "result")]


def test_what_began_before_does_not_count(tmp_path):
    """A killed build's tasks, or those of the stage before."""
    mark = leave_mark(tmp_path)
    say_begun(mark)
    assert has_begun(mark)
    begin_tasks(mark)
    assert not has_begun(mark)
