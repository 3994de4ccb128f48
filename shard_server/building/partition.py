"""Which shard a passage belongs to. Pure; the same answer on every machine and for ever."""

import numpy as np
import numpy.typing as npt

from shoal.formats.ids import Hashes

MAX_SHARDS = 256


def shards_of(hashes: Hashes, n_shards: int) -> npt.NDArray[np.uint16]:
    """The shard of each id, by its hash64: uint16 (n,), each below `n_shards`."""
    return (hashes % np.uint64(n_shards)).astype(np.uint16)
