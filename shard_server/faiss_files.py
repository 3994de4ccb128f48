"""How a faiss file is opened, by whoever opens one: with bounds, and of the kinds that we make.

Rule: faiss believes what a file says of itself (faiss#5400), so it is told before how much that may
be, and what it made is looked through before it is used. Must not know devices, nor who asks.
"""

from pathlib import Path
from typing import Any

import faiss

from shard_server.familiar import strange_part
from shard_server.limits import MAX_TABLE_BYTES
from shard_server.rotation import take_apart
from shoal.errors import IndexFormatError
from shoal.formats.manifest import Metric

_METRICS = {"inner_product": faiss.METRIC_INNER_PRODUCT, "l2": faiss.METRIC_L2}
_SLACK = 8
"""faiss refuses an array of n bytes unless n < limit / 4; twice that leaves room."""
_ROOM_BYTES = 1 << 20
_LEAST_LOOPS = 1024


def faiss_metric(metric: Metric) -> int:
    """The number that faiss has for `metric`."""
    return int(_METRICS[metric])


def table_bytes(*, n_lists: int, dim: int) -> int:
    """The most that faiss's tables of an IVF-PQ index take. Pure.

    Up to `dim` sub-quantizers of 256 entries, of 4 bytes each, for each list.
    """
    return min(MAX_TABLE_BYTES, n_lists * dim * 1024)


def read_faiss(path: Path, *, mapped: bool, n_lists: int, dim: int) -> Any:
    """What faiss makes of a file whose bytes were checked; `mapped`, where its kind allows it.

    faiss believes no more of it than its size, `n_lists` and `dim` allow. These bounds are the
    process's, and are set for this file: one file is read at a time.

    Raises:
        IndexFormatError: faiss refuses it.
    """
    n_bytes = path.stat().st_size
    faiss.set_deserialization_loop_limit(max(n_lists, _LEAST_LOOPS))
    faiss.set_deserialization_vector_byte_limit(
        _SLACK * n_bytes + table_bytes(n_lists=n_lists, dim=dim) + _ROOM_BYTES
    )
    try:
        return faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC if mapped else 0)
    except RuntimeError as failure:
        reason = str(failure).strip().rpartition("\n")[2][-300:]
        raise IndexFormatError(f"{path}: faiss can't read it: {reason}") from failure


def read_familiar(path: Path, *, mapped: bool, n_lists: int, dim: int) -> Any:
    """As `read_faiss`, for what need not fit a manifest but must be of the kinds that we make.

    Raises:
        IndexFormatError: faiss refuses it, or it is of another kind, or wants too much memory.
    """
    try:
        index = read_faiss(path, mapped=mapped, n_lists=n_lists, dim=dim)
        transform, codes = take_apart(index)
    except (MemoryError, ValueError) as fault:
        raise IndexFormatError(f"{path}: can't be opened: {fault}") from fault
    refuse_strange(path, codes, transform)
    return index


def refuse_strange(path: Path, codes: Any, transform: Any = None) -> None:
    """Raise IndexFormatError for codes, or a transform before them, that no recipe makes."""
    if strange := strange_part(codes, transform):
        raise IndexFormatError(f"{path}: holds {strange}, which no recipe makes")
