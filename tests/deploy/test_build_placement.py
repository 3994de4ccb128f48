"""What a build on Ray asks of the cluster: what one node can give, and no more."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.ray.building.placement import Node, Placement, cpus_a_task, lacks, place_encoders
from shoal.errors import ConfigError

CPU_NODE, GPU_NODE = Node(n_cpus=16, n_gpus=0), Node(n_cpus=48, n_gpus=4)
NODES = st.lists(
    st.builds(Node, n_cpus=st.integers(1, 256), n_gpus=st.integers(0, 8)), min_size=1, max_size=20
)


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
        ([Node(n_cpus=0, n_gpus=0), CPU_NODE], None, "auto", 1, 16, 0),
        ([Node(n_cpus=2, n_gpus=4)], None, "auto", 4, 1, 1),
        ([CPU_NODE], 40, "auto", 40, 1, 0),
    ],
)
def test_encoders_go_by_gpus_then_by_nodes(nodes, wanted, device, n_encoders, cpus_each, gpus_each):
    """A head without CPUs gets none; more than there are GPUs wait for the cluster to grow."""
    assert place_encoders(nodes, wanted, device) == Placement(
        n_encoders=n_encoders, cpus_each=cpus_each, gpus_each=gpus_each
    )


@given(NODES, st.none() | st.integers(1, 64))
def test_an_encoder_fits_a_node(nodes, wanted):
    """Else Ray would wait for a node that never comes."""
    placement = place_encoders(nodes, wanted, "auto")
    assert placement.n_encoders >= 1
    assert any(
        node.n_cpus >= placement.cpus_each and node.n_gpus >= placement.gpus_each for node in nodes
    )


@given(NODES, st.integers(1, 300))
def test_a_task_fits_every_node(nodes, n_tasks):
    """And all of them run side by side where there is a CPU for each."""
    n_cpus = cpus_a_task(nodes, n_tasks)
    assert 1 <= n_cpus <= min(node.n_cpus for node in nodes)
    total = sum(node.n_cpus for node in nodes)
    assert n_cpus * n_tasks <= total or n_cpus == 1


def test_a_cluster_without_cpus_is_refused():
    """`ray start --head --num-cpus=0` alone: a build would wait for ever."""
    with pytest.raises(ConfigError, match="ray status"):
        place_encoders([Node(n_cpus=0, n_gpus=0)], None, "auto")


def test_what_an_encoder_waits_for_is_said():
    """A serving cluster may hold the GPUs: a build that seems stuck must say why."""
    gpu = Placement(n_encoders=2, cpus_each=4, gpus_each=1)
    assert lacks(gpu, free_cpus=8, free_gpus=1) == ""
    assert lacks(gpu, free_cpus=8, free_gpus=0) == "a GPU, and 0 are free"
    assert lacks(gpu, free_cpus=2, free_gpus=1) == "4 CPUs, and 2 are free"
    assert gpu.in_words() == "2 encoders with a GPU and 4 CPUs each"
    assert Placement(n_encoders=1, cpus_each=1, gpus_each=0).in_words() == "1 encoder with 1 CPU"
