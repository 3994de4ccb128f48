"""Where the compressed index lives: the CPU's memory or one GPU's.

Rule: whatever touches a backend does so on one thread, the first that came: a StandardGpuResources
owns one temporary region and is not safe even for two readers (faiss#367). A version that is loaded
gets resources of its own (`another`), is warmed on the thread that loads it, and is handed over to
the search thread, which serves the old version all the while. Rescoring and exact
search stay on the host, over the memory-mapped vectors, so scores do not depend on the device.
This module must not know segments, passages or services.
"""

import threading
from dataclasses import dataclass
from typing import Any, Protocol

import faiss
import numpy as np

from shard_server.limits import GPU_CODE_SIZES, GPU_FLOAT16_TABLE_CODE_SIZES, MAX_QUERIES
from shoal.errors import ConfigError, UnavailableError

_TABLE_ENTRIES = 256
"""Entries of one 8-bit sub-quantizer's lookup table."""


@dataclass(frozen=True, slots=True)
class PlacedIndex:
    """A faiss index on its device, and what its searches need there.

    `temp_bytes_a_probe` is the temporary memory of one probed list of one query, out of
    `temp_bytes`; 0 where searches need no such budget.
    """

    index: Any
    temp_bytes_a_probe: int = 0
    temp_bytes: int = 0

    def queries_a_call(self, n_probe: int) -> int:
        """Queries that fit one search within the temporary memory; at least one."""
        bytes_a_query = self.temp_bytes_a_probe * max(1, n_probe)
        if not bytes_a_query:
            return MAX_QUERIES
        return min(MAX_QUERIES, max(1, self.temp_bytes // bytes_a_query))


class Backend(Protocol):
    """A device that compressed indexes are searched on."""

    @property
    def name(self) -> str:
        """The device: "cpu", "cuda:0"."""
        ...

    def place(self, index: Any) -> PlacedIndex:
        """Bring a CPU index to the device. Raises ConfigError, UnavailableError."""
        ...

    @property
    def loads_aside(self) -> bool:
        """Whether loading takes so long that searches of another version must not wait for it."""
        ...

    def another(self) -> "Backend":
        """The same device, with resources of its own."""
        ...

    def enter(self) -> None:
        """Called before every use of a placed index, by the thread that uses it."""
        ...

    def hand_over(self) -> None:
        """Called by the owner when it is done: the next thread that enters is the owner."""
        ...


class CpuBackend:
    """The index as it was read."""

    name = "cpu"
    loads_aside = False

    def another(self) -> "CpuBackend":
        """Nothing to share, nothing to own."""
        return self

    def place(self, index: Any) -> PlacedIndex:
        """The index itself."""
        return PlacedIndex(index)

    def enter(self) -> None:
        """Any thread may search on a CPU."""

    def hand_over(self) -> None:
        """Nobody owns a CPU."""


class GpuApi(Protocol):
    """What of faiss's GPU part is used; the CPU wheel has none of it."""

    def resources(self, temp_bytes: int) -> Any:
        """A StandardGpuResources with that much temporary memory."""
        ...

    def clone(self, resources: Any, device: int, index: Any, *, float16_tables: bool) -> Any:
        """A copy of a CPU index on the device."""
        ...


class FaissGpu:
    """faiss's own GPU part. faiss-gpu's stubs and faiss-cpu's module differ, hence `Any`."""

    def resources(self, temp_bytes: int) -> Any:
        """A StandardGpuResources with that much temporary memory."""
        module: Any = faiss
        resources = module.StandardGpuResources()
        resources.setTempMemory(temp_bytes)
        return resources

    def clone(self, resources: Any, device: int, index: Any, *, float16_tables: bool) -> Any:
        """A copy of a CPU index on the device."""
        module: Any = faiss
        options = module.GpuClonerOptions()
        options.useFloat16 = float16_tables
        options.usePrecomputed = False  # nlist x M x 256 floats a list would outweigh the codes
        options.use_cuvs = False  # its limits are others than those that `limits` promises
        return module.index_cpu_to_gpu(resources, device, index, options)


class GpuBackend:
    """One GPU, owned by the first thread that uses it.

    Args:
        device: the GPU's number.
        temp_bytes: memory for intermediate results of a search, kept on the device.
        api: faiss's GPU part.
    """

    loads_aside = True

    def __init__(self, device: int, *, temp_bytes: int, api: GpuApi) -> None:
        self._device = device
        self._temp_bytes = temp_bytes
        self._api = api
        self._resources: Any = None
        self._owner_id: int | None = None

    @property
    def name(self) -> str:
        """The device as the wire names it."""
        return f"cuda:{self._device}"

    def another(self) -> "GpuBackend":
        """The same GPU with a temporary region of its own, which two threads may use at once."""
        return GpuBackend(self._device, temp_bytes=self._temp_bytes, api=self._api)

    def hand_over(self) -> None:
        """The owner lets go; the next thread that enters owns the GPU's resources."""
        self.enter()
        self._owner_id = None

    def enter(self) -> None:
        """The first caller becomes the owner; any other thread is our bug."""
        caller_id = threading.get_ident()
        if self._owner_id is None:
            self._owner_id = caller_id
        if self._owner_id != caller_id:
            raise AssertionError(f"{self.name} was touched by a thread that does not own it")

    def place(self, index: Any) -> PlacedIndex:
        """Clone the index to the GPU.

        Raises:
            ConfigError: the index's kind can't be searched on a GPU.
            UnavailableError: the GPU refused; most often its memory is full.
        """
        self.enter()
        table_entry_bytes, code_size = _table_entry_bytes(index)
        try:
            if self._resources is None:
                self._resources = self._api.resources(self._temp_bytes)
            clone = self._api.clone(
                self._resources, self._device, index, float16_tables=table_entry_bytes == 2
            )
        except RuntimeError as failure:
            raise UnavailableError(
                f"{self.name} can't hold the index, {index.ntotal * code_size} bytes of codes: "
                f"{_last_line(failure)}; free GPU memory, or run with --device cpu"
            ) from failure
        # per probed list: its distances, written and selected from (two float32 a vector), and the
        # lookup table that a residual quantizer makes for each query and list
        longest = longest_list(index)
        temp_bytes_a_probe = 8 * longest + code_size * _TABLE_ENTRIES * table_entry_bytes
        return PlacedIndex(clone, temp_bytes_a_probe, self._temp_bytes)


def choose_device(requested: str, *, n_gpus: int, devices: tuple[str, ...]) -> str:
    """The device to serve on. Pure.

    Args:
        requested: "auto", "cpu", "cuda" or "cuda:N".
        n_gpus: GPUs that faiss sees.
        devices: kinds of device that the manifest lists: "cpu", "cuda".

    Returns:
        "cpu" or "cuda:N".

    Raises:
        ConfigError: saying what to run instead.
    """
    if requested == "auto":
        chosen = "cuda:0" if n_gpus and "cuda" in devices else "cpu"
    else:
        chosen = "cuda:0" if requested == "cuda" else requested
    kind, _, number = chosen.partition(":")
    if kind not in devices:
        built_for, other = ("gpu", "cpu") if kind == "cpu" else ("cpu", "gpu")
        served_on = " or ".join(f"--device {device}" for device in devices)
        raise ConfigError(
            f"the index was built --for {built_for} and does not serve on {chosen}; "
            f"run with {served_on}, or build it --for {other}"
        )
    if number and int(number) >= n_gpus:
        raise ConfigError(
            f"device {chosen} is not there: faiss sees {n_gpus} GPUs; run with --device cpu"
            + ("" if n_gpus else ", or install shoal[shard-gpu] on a machine with a GPU")
        )
    return chosen


def open_backend(device: str, *, temp_bytes: int) -> Backend:
    """The backend for a device that `choose_device` chose."""
    kind, _, number = device.partition(":")
    if kind == "cpu":
        return CpuBackend()
    return GpuBackend(int(number), temp_bytes=temp_bytes, api=FaissGpu())


def count_gpus() -> int:
    """GPUs that faiss can use; 0 with faiss-cpu."""
    return int(faiss.get_num_gpus())


def list_sizes(index: Any) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Vectors in each inverted list, shape (n_lists,)."""
    lists: Any = faiss.extract_index_ivf(index).invlists
    return np.array([lists.list_size(i) for i in range(lists.nlist)], dtype=np.int64)


def longest_list(index: Any) -> int:
    """Vectors in the longest inverted list."""
    return int(list_sizes(index).max(initial=0))


def _table_entry_bytes(index: Any) -> tuple[int, int]:
    """Bytes of a lookup table's entry, and of a code; ConfigError for what no GPU searches."""
    found = faiss.try_extract_index_ivf(index)
    ivf = None if found is None else faiss.downcast_index(found)
    if isinstance(ivf, faiss.IndexIVFPQ):
        size = int(ivf.code_size)
        if ivf.pq.nbits == 8 and size in GPU_CODE_SIZES:
            return (2 if size in GPU_FLOAT16_TABLE_CODE_SIZES else 4), size
        fault = f"{ivf.pq.nbits}-bit PQ with codes of {size} bytes"
    elif isinstance(ivf, faiss.IndexIVFFlat | faiss.IndexIVFScalarQuantizer):
        return 0, int(ivf.code_size)
    else:
        fault = type(index).__name__
    raise ConfigError(
        f"{fault} can't be searched on a GPU; run with --device cpu, or build the index --for gpu"
    )


def _last_line(failure: Exception) -> str:
    return str(failure).strip().rpartition("\n")[2][-300:]
