"""A small build or addition whose encoder writes down every passage that it encodes.

Run as a program (`counted_build.py build|add INDEX LOG`), it is a process to be killed; LOG.begun
and LOG.ended appear when the work begins and ends.
"""

import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from shard_server.building import BuildOptions, Passage, add_passages, build_index
from shoal.contract import EncoderContract, TowerContract
from shoal.formats.manifest import Manifest

N_PASSAGES = 2_000
CHUNK = 100
_CHUNK_S = 0.02
N_BASE = 500
"""What an index holds before it is added to; the first hundred of these are replaced."""


class CountedEncode:
    """Vectors drawn from a generator seeded by the passage's number, 0.1 ms a passage."""

    dim = 32
    _tower = TowerContract(
        fingerprint="counted", dim=32, max_tokens=256, pooling="mean", normalized=True
    )
    contract = EncoderContract(model="counted", question=_tower, passage=_tower)

    def __init__(self, log: Path) -> None:
        self._log = log

    def __call__(self, titles: Sequence[str], texts: Sequence[str]) -> np.ndarray:
        with self._log.open("a") as file:
            file.write("".join(f"{text}\n" for text in texts))
        time.sleep(_CHUNK_S)  # as a model would take its time, so that many a kill falls here
        drawn = [np.random.default_rng(int(text)).standard_normal(32) for text in texts]
        return np.stack(drawn).astype(np.float32)


def passages(first: int, end: int) -> Iterator[Passage]:
    for number in range(first, end):
        yield Passage(
            id=f"p{number % N_PASSAGES}",
            title="",
            text=str(number),
            metadata={"number": number},
            where=f"made-up:{number}",
        )


def work(what: str, index_dir: Path, log: Path) -> Manifest:
    """`base` builds what `add` adds to and replaces in; `build` is a build of its own."""
    encode = CountedEncode(log)
    options = BuildOptions(
        name="tiny", recipe="IVF16,SQ8", n_shards=3, seed=5, chunk_size=CHUNK, overwrite=True
    )
    if what == "add":
        added = passages(N_BASE, N_PASSAGES + 100)
        return add_passages(index_dir, added, encode, replace_known=True, chunk_size=CHUNK)
    n_passages = N_BASE if what == "base" else N_PASSAGES
    return build_index(index_dir, passages(0, n_passages), encode, options)


if __name__ == "__main__":
    place, logged = Path(sys.argv[2]), Path(sys.argv[3])
    Path(f"{logged}.begun").touch()
    work(sys.argv[1], place, logged)
    Path(f"{logged}.ended").touch()
