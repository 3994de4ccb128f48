"""The fault tests' index: 20,000 passages in 4 shards, built once a session by the real builder.

Versions 1 to 4 are good, each with passages of its own so that a mixed answer shows; version 5 has
a flipped bit.
"""

from dataclasses import dataclass
from pathlib import Path

from faults import stub

from shard_server.building import BuildOptions, add_passages, build_index
from shoal.formats.manifest import Manifest
from shoal.formats.versions import load_manifest

N_GOOD = 4
CORRUPT = 5
_MORE = 400


@dataclass(frozen=True, slots=True, kw_only=True)
class MiniIndex:
    """Where it lies, and its versions by number."""

    folder: Path
    manifests: dict[int, Manifest]


def build(folder: Path) -> MiniIndex:
    """Builds all versions; the shards are started with version 1."""
    index_dir = folder / stub.NAME
    encode = stub.StubEncode()
    options = BuildOptions(
        name=stub.NAME, recipe=stub.RECIPE, n_shards=stub.N_SHARDS, max_training_vectors=2_000
    )
    build_index(index_dir, stub.passages(0, stub.N_PASSAGES), encode, options)
    for version in range(2, CORRUPT + 1):
        first = stub.N_PASSAGES + (version - 2) * _MORE
        add_passages(index_dir, stub.passages(first, _MORE), encode)
    manifests = {v: load_manifest(index_dir, v) for v in range(1, CORRUPT + 1)}
    _flip_a_bit(index_dir, manifests[CORRUPT])
    return MiniIndex(folder=index_dir, manifests=manifests)


def _flip_a_bit(index_dir: Path, manifest: Manifest) -> None:
    path = index_dir / manifest.shards[2].segments[-1].files.vectors.path
    path.chmod(0o644)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 8
    path.write_bytes(content)
