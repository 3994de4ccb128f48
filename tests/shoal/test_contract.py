"""The encoder contract on the wire and back, and its proof."""

import numpy as np
import pytest

from shoal import contract
from shoal.contract import EncoderContract, TowerContract

TOWER = TowerContract(
    fingerprint="a" * 64,
    dim=3,
    max_tokens=256,
    pooling="mean",
    normalized=True,
    prompt="query: ",
    probe_texts=("one", "zwei"),
    probe_vectors=((1.0, 0.0, 0.0), (0.0, 0.5, 0.25)),
)
CONTRACT = EncoderContract(
    model="m", question=TOWER, passage=TOWER.model_copy(update={"prompt": ""}), min_cosine=0.99
)


def test_a_contract_survives_the_way():
    """With probes it comes back equal; without them the rest does."""
    assert contract.from_proto(contract.to_proto(CONTRACT, probes=True), "m") == CONTRACT
    bare = contract.from_proto(contract.to_proto(CONTRACT, probes=False), "m")
    assert bare.question == TOWER.model_copy(update={"probe_texts": (), "probe_vectors": ()})
    assert bare.passage.prompt == ""


def test_every_field_is_on_the_wire():
    """A field that is added to the model and not to the proto is noticed here."""
    names = {field.name for field in contract.pb.TowerContract.DESCRIPTOR.fields}
    assert names == set(TowerContract.model_fields)


def test_a_swapped_model_is_told():
    """Another fingerprint, or other probe vectors under the same one; either tower counts."""
    assert contract.disagreement(CONTRACT, CONTRACT) == ""
    other = CONTRACT.passage.model_copy(update={"fingerprint": "b" * 64})
    swapped = CONTRACT.model_copy(update={"passage": other})
    assert "passage tower has fingerprint aaaaaaaaaaaa" in contract.disagreement(CONTRACT, swapped)
    turned = TOWER.model_copy(update={"probe_vectors": ((1.0, 0.0, 0.0), (0.5, 0.0, 0.25))})
    lying = CONTRACT.model_copy(update={"question": turned})
    assert "question tower: its probe vectors" in contract.disagreement(CONTRACT, lying)


@pytest.mark.parametrize(
    "made", [np.zeros((2, 3)), np.zeros((1, 3)), np.zeros((2, 4)), np.full((2, 3), np.nan)]
)
def test_vectors_that_prove_nothing_are_a_fault(made):
    """Zeros, NaN, too few rows, another dimension."""
    assert contract.tower_fault(TOWER, made.astype(np.float32), 0.999)


@pytest.mark.parametrize(
    ("probes", "cosine"),
    [
        ([[2, 0, 0], [0, 1, 0.5]], 1.0),
        ([[1, 0, 0], [0, -0.5, -0.25]], -1.0),
        ([[0, 1, 0], [0, 1, 0.5]], 0.0),
    ],
)
def test_the_lowest_cosine_counts(probes, cosine):
    """One turned probe is enough; lengths don't matter."""
    lowest = contract.lowest_cosine(TOWER, np.array(probes, dtype=np.float32))
    assert lowest == pytest.approx(cosine, abs=1e-6)
