"""What runs a tower's network: eager torch, which always works, or ONNX Runtime on a CPU.

A forward pass takes one padded batch and returns float32 vectors; both may be called from several
threads at once on a CPU.
"""

import os
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
import onnxruntime
import torch
from torch import nn

from encoder_service.onnx_graph import open_session, session_inputs
from encoder_service.tokenizing import PaddedBatch
from shoal.errors import ConfigError

Vectors = npt.NDArray[np.float32]
TORCH_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


class Forward(Protocol):
    """One tower on one device."""

    def __call__(self, batch: PaddedBatch) -> Vectors:
        """(n, dim) vectors of n padded texts."""
        ...

    def on_one_core(self) -> "Forward | None":
        """The same on one core, to run side by side on all; None where that gains nothing."""
        ...


class TorchForward:
    """Eager torch on any device."""

    def __init__(self, network: nn.Module, *, device: str, dtype: str) -> None:
        self._device = torch.device(device)
        self._network = network.to(device=self._device, dtype=TORCH_DTYPES[dtype]).eval()

    def __call__(self, batch: PaddedBatch) -> Vectors:
        """One pass; a batch that doesn't fit the GPU's memory goes in halves."""
        try:
            return self._run(batch)
        except torch.cuda.OutOfMemoryError:
            n_rows = len(batch.input_ids)
            if n_rows == 1:
                raise
        torch.cuda.empty_cache()
        halves = (slice(0, n_rows // 2), slice(n_rows // 2, n_rows))
        return np.concatenate([self(_rows(batch, half)) for half in halves])

    def on_one_core(self) -> None:
        """None: two eager passes side by side wait for one interpreter."""

    def _run(self, batch: PaddedBatch) -> Vectors:
        inputs = {name: torch.from_numpy(value).to(self._device, non_blocking=True)
                  for name, value in session_inputs(batch).items()}  # fmt: skip
        with torch.inference_mode():
            vectors: Vectors = self._network(**inputs).float().cpu().numpy()
        return vectors


class OnnxForward:
    """ONNX Runtime on a CPU."""

    def __init__(self, session: onnxruntime.InferenceSession, path: Path) -> None:
        self._session = session
        self._path = path
        self._on_one_core: OnnxForward | None = None

    def __call__(self, batch: PaddedBatch) -> Vectors:
        """One pass; releases the GIL."""
        vectors: Vectors = self._session.run(None, session_inputs(batch))[0]
        return vectors

    def on_one_core(self) -> "OnnxForward":
        """A second session with one thread, opened when first asked for."""
        if self._on_one_core is None:
            session = open_session(self._path, n_threads=1)
            self._on_one_core = OnnxForward(session, self._path)
        return self._on_one_core


def n_cores() -> int:
    """Cores for this process: OMP_NUM_THREADS where it is set, else those it may run on."""
    given = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]
    return int(given) if given.isdigit() and int(given) else len(os.sched_getaffinity(0))


def resolve_device(wanted: str) -> str:
    """The device to use: "cpu" or "cuda:N".

    Raises:
        ConfigError: a GPU that isn't there.
    """
    n_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if wanted == "auto":
        return "cuda:0" if n_gpus else "cpu"
    if wanted == "cpu":
        return "cpu"
    number = int(wanted.partition(":")[2] or 0)
    if number >= n_gpus:
        raise ConfigError(
            f"device {wanted}: torch sees {n_gpus} GPUs here; use --device cpu, or an installation "
            "of torch with CUDA on a machine with a GPU"
        )
    return f"cuda:{number}"


def resolve_dtype(wanted: str, device: str) -> str:
    """The number type to use: float32 on a CPU and float16 on a GPU, unless told."""
    if wanted != "auto":
        return wanted
    return "float32" if device == "cpu" else "float16"


def _rows(batch: PaddedBatch, rows: slice) -> PaddedBatch:
    types = batch.token_type_ids
    return PaddedBatch(
        input_ids=batch.input_ids[rows],
        attention_mask=batch.attention_mask[rows],
        token_type_ids=None if types is None else types[rows],
    )
