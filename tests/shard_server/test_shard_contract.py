"""What a shard tells of the encoder: little, but the question tower's probes where asked for."""

import numpy as np

from shard_server import wire
from shard_server.index import ShardIndex
from shoal.contract import EncoderContract, TowerContract
from shoal.vectors import from_proto

TOWER = TowerContract(
    fingerprint="a" * 64,
    dim=2,
    max_tokens=8,
    pooling="mean",
    normalized=True,
    probe_texts=("one", "two"),
    probe_vectors=((1.0, 0.0), (0.0, 1.0)),
)


def told(folder, write_index, *, with_probes):
    manifest = write_index(folder, "Flat", n_rows=10).model_copy(
        update={"encoder": EncoderContract(model="m", question=TOWER, passage=TOWER)}
    )
    index = ShardIndex(manifest, 0, (), (), None)
    return wire.shard_version(index, with_probes=with_probes).contract


def test_probes_come_where_asked_for(tmp_path, write_index):
    """A router needs the question tower's alone: passages are encoded offline."""
    contract = told(tmp_path, write_index, with_probes=True)
    assert tuple(contract.question.probe_texts) == TOWER.probe_texts
    assert np.array_equal(from_proto(contract.question.probe_vectors, "v"), TOWER.probe_vectors)
    assert not contract.passage.probe_texts
    assert not contract.passage.HasField("probe_vectors")
    assert contract.passage.fingerprint == TOWER.fingerprint


def test_checks_stay_small(tmp_path, write_index):
    """Every second, every replica: no probes unless they are asked for."""
    contract = told(tmp_path, write_index, with_probes=False)
    assert contract.question.fingerprint == TOWER.fingerprint
    assert not contract.question.probe_texts
    assert not contract.question.HasField("probe_vectors")
