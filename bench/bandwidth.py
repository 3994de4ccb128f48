"""How fast a device reads its memory: measured by a copy, or told by a table of cards.

Rule: the answer says which of the two it is.
"""

import importlib.util
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np

_COPY_BYTES = 256 << 20
_N_COPIES = 8

CARDS: Mapping[str, float] = MappingProxyType({
    "H200": 4800, "H100 NVL": 3900, "H100 PCIe": 2000, "H100": 3350, "A100-SXM4-80GB": 2039,
    "A100 80GB": 1935, "A100": 1555, "L40S": 864, "L4": 300, "A10": 600, "T4": 320, "V100": 900,
})  # fmt: skip
"""Gigabytes a second by NVIDIA's data sheets; the first name that a card's name holds counts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bandwidth:
    """Gigabytes a second, 0 where unknown, and how that is known."""

    gb_s: float
    how: str


def bandwidth_of(device: str) -> Bandwidth:
    """Of "cpu" or "cuda:N": by a copy; a card without torch beside it by the table."""
    if device == "cpu":
        source = np.ones(_COPY_BYTES, dtype=np.uint8)
        target = np.empty_like(source)
        seconds = _best_s(lambda: np.copyto(target, source))
        return Bandwidth(gb_s=2 * _COPY_BYTES / seconds / 1e9, how="one core's copy, measured")
    if importlib.util.find_spec("torch") is not None:
        import torch  # noqa: PLC0415 -- a machine that only searches has no torch

        if torch.cuda.is_available():
            return _torch_copy(torch, device)
    command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader", "-i", device[5:]]
    try:
        name = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return Bandwidth(gb_s=0.0, how="unknown: no nvidia-smi")
    return of_card(name)


def of_card(name: str) -> Bandwidth:
    """By nvidia-smi's name of the card. Pure."""
    for known, gb_s in CARDS.items():
        if known in name:
            return Bandwidth(gb_s=gb_s, how=f"{name}'s data sheet")
    return Bandwidth(gb_s=0.0, how=f"unknown: {name} is not in the table of bench/bandwidth.py")


def scanned_gb_s(
    *, n_probe: int, n_lists: int, n_rows: int, code_bytes: int, queries_per_s: float
) -> float:
    """Gigabytes of codes that searches read a second, were all lists of one length. Pure.

    Lists that are probed are longer than the mean, so this is the least that is read.
    """
    return n_probe / n_lists * n_rows * code_bytes * queries_per_s / 1e9


def _torch_copy(torch: Any, device: str) -> Bandwidth:
    source = torch.ones(_COPY_BYTES, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)

    def copy() -> None:
        target.copy_(source)
        torch.cuda.synchronize(device)

    gb_s = 2 * _COPY_BYTES / _best_s(copy) / 1e9
    return Bandwidth(gb_s=gb_s, how="a copy on the device, measured")


def _best_s(copy: Callable[[], None]) -> float:
    times = []
    for _ in range(_N_COPIES):
        begun_s = time.perf_counter()
        copy()
        times.append(time.perf_counter() - begun_s)
    return min(times)
