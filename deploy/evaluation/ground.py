"""The index that is to be explained: opened and checked before the cluster is asked anything.

Rule: whatever would end the explaining ends it here, for asking and encoding take long.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from deploy.evaluation import float32
from shard_server.building.stored import StoredIndex
from shoal.contract import EncoderContract
from shoal.errors import ConfigError
from shoal.evaluation.rankings import Found
from shoal.evaluation.sets import QuestionSet
from shoal.formats.manifest import Manifest


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """`passages` are by ordinal; `float32_dir` keeps what is encoded again, None where nothing is
    to be.
    """

    index_dir: Path
    stored: StoredIndex
    encoder: EncoderContract
    passages: list[Found]
    float32_dir: Path | None

    @property
    def manifest(self) -> Manifest:
        """The index's version that is explained."""
        return self.stored.manifest

    def n_absent(self, questions: QuestionSet) -> int:
        """How many of the relevant passages the index does not hold.

        Raises:
            ConfigError: it holds none of them.
        """
        wanted = {j.passage_id for j in questions.qrels if j.relevance > 0}
        n_absent = len(wanted - {passage.id for passage in self.passages})
        if wanted and n_absent == len(wanted):
            raise ConfigError(
                f"index {self.manifest.name!r} holds none of the passages that "
                f"{questions.name} judges; name the index of its corpus"
            )
        return n_absent


def check_served(index_dir: Path, manifest: Manifest, name: str, version: int) -> None:
    """Refuses another index or version than the folder's.

    Raises:
        ConfigError: naming both.
    """
    if (manifest.name, manifest.version) != (name, version):
        raise ConfigError(
            f"the cluster serves version {version} of {name!r}, {index_dir} holds version "
            f"{manifest.version} of {manifest.name!r}; reload the one, or name the other"
        )


def open_ground(index_dir: Path, float32_dir: Path | None, name: str, version: int) -> Ground:
    """The live version in the folder.

    Args:
        index_dir: of the index.
        float32_dir: keeps what is encoded again; made where it isn't there.
        name: of the index that is served.
        version: that is served.

    Raises:
        ConfigError: another index or version, one that can't be explained, or a `float32_dir` of
            something else.
        IndexFormatError: a file of it does not verify.
    """
    stored = StoredIndex.open(index_dir)
    check_served(index_dir, stored.manifest, name, version)
    encoder = _explainable(stored.manifest)
    passages = [Found(p.id, 0.0, p.title, p.text) for p in stored.passages()]
    if float32_dir is not None:
        float32.prepare(float32_dir, _identity(encoder, passages))
    return Ground(
        index_dir=index_dir,
        stored=stored,
        encoder=encoder,
        passages=passages,
        float32_dir=float32_dir,
    )


def _explainable(manifest: Manifest) -> EncoderContract:
    if manifest.encoder is None:
        raise ConfigError(f"index {manifest.name!r} holds bare vectors: nothing can be encoded")
    if "cpu" not in manifest.devices:
        raise ConfigError(
            f"index {manifest.name!r} serves on {', '.join(manifest.devices)} alone; explaining it "
            "takes a CPU's search"
        )
    if manifest.n_live != manifest.n_rows:
        raise ConfigError(
            f"index {manifest.name!r} has superseded passages, which the waterfall can't leave "
            "out yet; build it again from its corpus"
        )
    return manifest.encoder


def _identity(encoder: EncoderContract, passages: list[Found]) -> str:
    digest = hashlib.sha256(encoder.passage.fingerprint.encode())
    for passage in passages:
        digest.update(f"\0{passage.id}\0{passage.title}\0{passage.text}".encode())
    return digest.hexdigest()
