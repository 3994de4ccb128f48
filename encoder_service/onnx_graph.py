"""A tower's network as an ONNX graph: exported once, cached on disk, checked on every load.

On a CPU ONNX Runtime needs half of eager torch's time (docs/decisions.md). The graph has dynamic
batch and length. A cached file is named by the network and by the releases that made it; one that
is unreadable or computes something else is exported again.
"""

import logging
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
import torch
import transformers
from torch import nn

from encoder_service.tokenizing import PaddedBatch

logger = logging.getLogger(__name__)

Vectors = npt.NDArray[np.float32]
LEAST_COSINE = 0.9999
_OPSET = 18


class GraphError(Exception):
    """A network that doesn't export, or a graph that computes something else. Torch serves it."""


def graph_path(graph_key: str) -> Path:
    """Where the graph is cached: $XDG_CACHE_HOME/shoal/onnx, by network and releases."""
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    releases = f"torch{torch.__version__}-tf{transformers.__version__}-ort{onnxruntime.__version__}"
    return Path(root) / "shoal" / "onnx" / f"{graph_key[:32]}-{releases}.onnx"


def load_graph(
    network: nn.Module,
    graph_key: str,
    probe: PaddedBatch,
    expected: Vectors,
    *,
    n_threads: int,
) -> tuple[onnxruntime.InferenceSession, Path]:
    """A session that computes `network`, from the cache or exported now.

    Args:
        network: the tower's network, float32 on the CPU.
        graph_key: names the network.
        probe: a batch of at least two rows of different lengths.
        expected: the network's own vectors of `probe`, (n, dim).
        n_threads: threads of a forward pass.

    Raises:
        GraphError: it doesn't export, or its vectors aren't the network's.
    """
    path = graph_path(graph_key)
    if path.is_file():
        try:
            return _checked_session(path, probe, expected, n_threads), path
        except Exception as failure:  # noqa: BLE001 -- any fault of a cached file means: make it again
            logger.info("the cached graph %s is not usable (%s); exporting again", path, failure)
    try:
        _write_atomically(path, lambda target: _export(network, probe, target))
        return _checked_session(path, probe, expected, n_threads), path
    except Exception as failure:
        raise GraphError(
            f"{type(failure).__name__}: {str(failure).partition(chr(10))[0]}"
        ) from failure


def open_session(path: Path, *, n_threads: int) -> onnxruntime.InferenceSession:
    """A CPU session with `n_threads`; its threads sleep, not spin, while they wait."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = n_threads
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def session_inputs(batch: PaddedBatch) -> dict[str, npt.NDArray[np.int64]]:
    """The graph's inputs by name."""
    inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
    if batch.token_type_ids is not None:
        inputs["token_type_ids"] = batch.token_type_ids
    return inputs


def _checked_session(
    path: Path, probe: PaddedBatch, expected: Vectors, n_threads: int
) -> onnxruntime.InferenceSession:
    session = open_session(path, n_threads=n_threads)
    vectors = session.run(None, session_inputs(probe))[0]
    norms = np.linalg.norm(vectors, axis=1) * np.linalg.norm(expected, axis=1)
    cosine = float(np.min(np.einsum("ij,ij->i", vectors, expected) / norms))
    if not cosine >= LEAST_COSINE:  # also true of NaN
        raise GraphError(f"its vectors have cosine {cosine:.6f} to the network's")
    return session


def _export(network: nn.Module, probe: PaddedBatch, target: Path) -> None:
    inputs = {name: torch.from_numpy(value) for name, value in session_inputs(probe).items()}
    dynamic = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    with _plain_attention(network), _silence(), torch.inference_mode(mode=False), torch.no_grad():
        program = torch.onnx.export(
            network,
            tuple(inputs.values()),
            dynamo=True,
            opset_version=_OPSET,
            input_names=list(inputs),
            output_names=["vectors"],
            dynamic_shapes=tuple(dynamic for _ in inputs),
            verbose=False,
        )
        assert program is not None
        program.save(str(target))


@contextmanager
def _plain_attention(network: nn.Module) -> Iterator[None]:
    """Exports attention as products and a softmax: ONNX Runtime runs that a fifth faster."""
    models: list[Any] = [
        m for m in network.modules() if isinstance(m, transformers.PreTrainedModel)
    ]
    before = [model.config._attn_implementation for model in models]  # noqa: SLF001 -- its only getter
    for model in models:
        model.set_attn_implementation("eager")
    try:
        yield
    finally:
        for model, implementation in zip(models, before, strict=True):
            model.set_attn_implementation(implementation)


@contextmanager
def _silence() -> Iterator[None]:
    """The exporter's advice is for its developers; a failure is an exception, logged once by us."""
    noisy = [logging.getLogger(name) for name in ("torch", "torch.onnx", "onnxscript", "onnx_ir",
             "torch.onnx._internal.exporter._registration")]  # fmt: skip
    levels = [each.level for each in noisy]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for each in noisy:
            each.setLevel(logging.CRITICAL)
        try:
            yield
        finally:
            for each, level in zip(noisy, levels, strict=True):
                each.setLevel(level)


def _write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Another process sees no file or the whole one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".onnx")
    os.close(handle)
    try:
        write(Path(name))
        Path(name).replace(path)
    finally:
        with suppress(FileNotFoundError):
            Path(name).unlink()
