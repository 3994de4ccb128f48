"""`shoal scale`'s arguments, entries of a Serve config, and room on nodes: values only."""

import pytest

from deploy.ray.counts import bounds_of, deployments_of, entry, kept, parse_counts, rescaled
from deploy.ray.room import missing_for
from deploy.ray.scaling import Bounds
from shoal.errors import InvalidArgumentError


def test_counts_and_bounds_are_read():
    """A number is fixed; two are what the load moves it between."""
    assert parse_counts(["encoder=1..4", "shard=2", "router=3"]) == {
        "encoder": Bounds(least=1, most=4),
        "shard": Bounds(least=2, most=2),
        "router": Bounds(least=3, most=3),
    }


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        ([], "for example"),
        (["indexer=2"], "names no role"),
        (["encoder"], "names no role"),
        (["encoder=two"], "not a number"),
        (["encoder=-1"], "not a number"),
        (["encoder=1.5"], "not a number"),
        (["encoder="], "not a number"),
        (["encoder=0"], "one of each at least"),
        (["router=0..2"], "one of each at least"),
        (["router=4..2"], "least first"),
        (["router=99999"], "10,000"),
        (["encoder=²"], "not a number"),
        (["shard=1..2"], "don't follow load"),
        (["shard=1", "shard=2"], "twice"),
    ],
)
def test_what_is_no_count_is_told(texts, said):
    """One line that names the argument and how it should be."""
    with pytest.raises(InvalidArgumentError) as told:
        parse_counts(texts)
    assert said in told.value.message.lower() or said in told.value.message


def test_a_role_is_its_deployments():
    """`shard` is every shard's deployment; the directory is nobody's to scale."""
    names = ["directory", "encoder", "router", "shard-0", "shard-11"]
    assert deployments_of("shard", names) == ["shard-0", "shard-11"]
    assert deployments_of("encoder", names) == ["encoder"]


def test_shards_are_fixed_and_the_others_bounded():
    """Serve refuses both in one entry; an encoder has bounds even where they are equal."""
    fixed = Bounds(least=2, most=2)
    assert entry("shard-0", fixed) == {"name": "shard-0", "num_replicas": 2}
    scaling = entry("encoder", fixed)["autoscaling_config"]
    assert (scaling["min_replicas"], scaling["max_replicas"]) == (2, 2)
    assert scaling["policy"]["policy_kwargs"] == {"role": "encoder"}
    assert "num_replicas" not in entry("encoder", fixed)


@pytest.mark.ray
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Serve's own
def test_serve_takes_the_entries():
    """The entry is what this release of Serve reads, our policy among it."""
    from ray.serve import schema

    for name in ("shard-0", "encoder", "router"):
        schema.DeploymentSchema.model_validate(entry(name, Bounds(least=1, most=3), hold_s=9.0))


def test_rescaling_leaves_the_rest_alone():
    """What an operator wrote stays, of other deployments, of this one, and of its policy."""
    config = {
        "name": "c",
        "args": {"index": "/i"},
        "deployments": [
            {**entry("encoder", Bounds(least=1, most=2), hold_s=20.0), "max_ongoing_requests": 7},
            {"name": "shard-0", "num_replicas": 2},
        ],
    }
    new = rescaled(config, {"encoder": Bounds(least=1, most=5), "router": Bounds(least=2, most=2)})
    assert (new["name"], new["args"]) == ("c", {"index": "/i"})
    assert [told["name"] for told in new["deployments"]] == ["encoder", "router", "shard-0"]
    encoder = new["deployments"][0]
    assert encoder["max_ongoing_requests"] == 7
    assert encoder["autoscaling_config"]["policy"]["policy_kwargs"]["hold_s"] == 20.0
    assert bounds_of(new, "encoder") == Bounds(least=1, most=5)
    assert bounds_of(new, "shard-0") == Bounds(least=2, most=2)
    assert bounds_of(new, "shard-7") is None
    assert bounds_of(config, "encoder") == Bounds(least=1, most=2)


def test_a_number_becomes_bounds():
    """A config written by hand says num_replicas; Serve refuses it beside bounds."""
    config = {"deployments": [{"name": "encoder", "num_replicas": 1}]}
    told = rescaled(config, {"encoder": Bounds(least=1, most=3)})["deployments"]
    assert "num_replicas" not in told[0]


def test_up_given_again_does_not_undo_scale():
    """Numbers that `up` wasn't given stay, with their rules; those that it was given are taken."""
    one, three = Bounds(least=1, most=1), Bounds(least=1, most=3)
    before = {"deployments": [entry("encoder", three, hold_s=9.0), entry("shard-0", one)]}
    config = {"name": "c", "deployments": [entry("encoder", one), entry("shard-0", three)]}
    new = kept(config, before, {"replicas", "program"})
    assert new["deployments"] == [entry("encoder", three, hold_s=9.0), entry("shard-0", three)]
    assert kept(config, {"deployments": []}, ())["deployments"] == config["deployments"]
    assert kept(config, before, {"encoders", "replicas"}) == config


CPU = {"CPU": 2.0}


def test_replicas_that_fit_lack_nothing():
    """First fit, largest first."""
    assert missing_for([("a", 3, CPU), ("b", 1, {"GPU": 0.5})], [{"CPU": 6, "GPU": 0.5}]) == ""


def test_what_is_free_on_several_nodes_does_not_add_up():
    """A replica runs on one node: three nodes with a CPU each hold none that needs two."""
    told = missing_for([("shard-0", 1, CPU)], [{"CPU": 1.0}] * 3)
    assert told == "shard-0: room for 0 of 1 more (each needs 2 CPU); 3 nodes have left: 3 CPU"


def test_what_is_missing_is_named():
    """Which deployment, how many fit, what each needs, what is there."""
    told = missing_for([("encoder", 3, {"CPU": 1.0, "GPU": 1.0})], [{"CPU": 8.0, "GPU": 1.0}])
    assert "encoder: room for 1 of 3 more (each needs 1 CPU, 1 GPU)" in told
    assert told.endswith("1 node has left: 8 CPU, 1 GPU")


def test_a_fraction_is_no_rounding_error():
    """Ten tenths of a GPU are one."""
    assert missing_for([("s", 10, {"GPU": 0.1})], [{"GPU": 1.0}]) == ""
