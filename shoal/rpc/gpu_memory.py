"""Tells, on the Prometheus page, how full the memory is of a GPU that this process computes on.

Rules:
1. Asked of the driver when the page is, and never on a query's way.
2. Neither torch nor faiss is imported for it, and no GPU is woken: the driver is asked by ctypes
   and only of a device on which the process has a context already. Whoever has none tells nothing.
The five calls are CUDA's driver API: docs.nvidia.com/cuda/cuda-driver-api.
"""

import contextlib
import ctypes
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from prometheus_client import REGISTRY
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

_DRIVER = "libcuda.so.1"


class GpuMemory(NamedTuple):
    """One GPU's, in bytes; `used` is what all processes hold."""

    used: int
    total: int


class GpuMemoryGauges(Collector):
    """`shoal_gpu_memory_*_bytes` of the devices that are watched, by their numbers."""

    def __init__(self, read: Callable[[int], GpuMemory | None]) -> None:
        """`read` knows a device's memory; None where there is nothing to tell."""
        self._read = read
        self.watched: frozenset[int] = frozenset()

    def describe(self) -> Iterable[GaugeMetricFamily]:
        """The families, without values: to register it must not ask the driver."""
        return _families()

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Asks; a family without a value is left out."""
        used, total = _families()
        for number in sorted(self.watched):
            if memory := self._read(number):
                used.add_metric([f"cuda:{number}"], memory.used)
                total.add_metric([f"cuda:{number}"], memory.total)
        yield from (family for family in (used, total) if family.samples)


def _families() -> tuple[GaugeMetricFamily, GaugeMetricFamily]:
    return (
        GaugeMetricFamily(
            "shoal_gpu_memory_used_bytes",
            "Memory of the GPU that is taken, whoever took it.",
            labels=["device"],
        ),
        GaugeMetricFamily(
            "shoal_gpu_memory_total_bytes", "Memory that the GPU has.", labels=["device"]
        ),
    )


def device_number(device: str) -> int | None:
    """N of "cuda:N", 0 of "cuda"; None for what is no such GPU. Pure."""
    kind, _, number = device.partition(":")
    return int(number or 0) if kind == "cuda" else None


def watch_gpu(device: str) -> None:
    """Tells from now on of "cuda" or "cuda:N", as this process numbers them; not of "cpu"."""
    number = device_number(device)
    if number is None:
        return
    if not _GAUGES.watched:
        REGISTRY.register(_GAUGES)
    _GAUGES.watched |= {number}


def read_gpu_memory(number: int) -> GpuMemory | None:
    """What the driver says of device `number`; None without driver, device or a context on it."""
    try:
        driver = ctypes.CDLL(_DRIVER)
    except OSError:
        return None
    device, flags, active = ctypes.c_int(), ctypes.c_uint(), ctypes.c_int()
    try:
        _ask(driver.cuDeviceGet, ctypes.byref(device), ctypes.c_int(number))
        _ask(driver.cuDevicePrimaryCtxGetState, device, ctypes.byref(flags), ctypes.byref(active))
        if not active.value:
            return None
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        with _context_of(driver, device):
            _ask(driver.cuMemGetInfo_v2, ctypes.byref(free), ctypes.byref(total))
    except _DriverError:
        return None
    return GpuMemory(used=total.value - free.value, total=total.value)


class _DriverError(Exception):
    """The driver refused."""


def _ask(call: Callable[..., int], *arguments: object) -> None:
    if call(*arguments):
        raise _DriverError


@contextlib.contextmanager
def _context_of(driver: ctypes.CDLL, device: ctypes.c_int) -> Iterator[None]:
    """This thread in the context that torch or faiss made; it is theirs, and stays as it is."""
    context = ctypes.c_void_p()
    _ask(driver.cuDevicePrimaryCtxRetain, ctypes.byref(context), device)
    try:
        _ask(driver.cuCtxPushCurrent_v2, context)
        try:
            yield
        finally:
            driver.cuCtxPopCurrent_v2(ctypes.byref(ctypes.c_void_p()))
    finally:
        driver.cuDevicePrimaryCtxRelease_v2(device)


_GAUGES = GpuMemoryGauges(read_gpu_memory)
