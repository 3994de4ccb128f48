"""A small build on Ray whose encoders write down every passage that they encode.

Run as a program (`ray_build.py INDEX LOG ADDRESS [broken]`), it is a driver to be killed.
"""

import sys
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from fakes.counted_build import CountedEncode, passages

from shard_server.building import BuildOptions, build_index

N_PASSAGES, CHUNK = 1_200, 50
OPTIONS = BuildOptions(name="tiny", recipe="IVF16,SQ8", n_shards=2, seed=5, chunk_size=CHUNK)
_CHUNK_S = 0.25


class SlowEncode(CountedEncode):
    """Takes its time, so that a kill falls among chunks under way."""

    def __call__(self, titles: Sequence[str], texts: Sequence[str]) -> np.ndarray:
        time.sleep(_CHUNK_S)
        return super().__call__(titles, texts)


class BrokenEncode(CountedEncode):
    """Answers what no index takes."""

    def __call__(self, titles: Sequence[str], texts: Sequence[str]) -> np.ndarray:
        return super().__call__(titles, texts) * np.nan


def corpus() -> Iterator:
    return passages(0, N_PASSAGES)


def main(index_dir: Path, log: Path, address: str, kind: str = "slow") -> None:
    from deploy.ray.building.cluster import joined
    from deploy.ray.building.executor import OnRay
    from deploy.ray.building.placement import Placement

    encode = {"slow": SlowEncode, "broken": BrokenEncode}[kind]
    placement = Placement(n_encoders=2, cpus_each=1, gpus_each=0)
    with joined(address):
        executor = OnRay(load=partial(encode, log), placement=placement, note=lambda _: None)
        build_index(index_dir, corpus(), CountedEncode(log), OPTIONS, executor=executor)


if __name__ == "__main__":
    # by its importable name: the actors load what it defines
    from fakes.ray_build import main as importable

    importable(Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:])
