"""A dual encoder: two towers, where they run, and the contract that indexes are built under."""

import logging
from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch

from encoder_service.backends import (
    Forward,
    OnnxForward,
    TorchForward,
    n_cores,
    resolve_device,
    resolve_dtype,
)
from encoder_service.batching import BatchCost, plan_batches
from encoder_service.onnx_graph import GraphError, load_graph
from encoder_service.probes import PROBE_TEXTS
from encoder_service.roles import Role
from encoder_service.source import find_model
from encoder_service.tokenizing import TokenizedText
from encoder_service.towers import Tower, load_towers
from shoal.contract import EncoderContract, TowerContract
from shoal.errors import ConfigError

logger = logging.getLogger(__name__)

Vectors = npt.NDArray[np.float32]
Backend = Literal["onnxruntime", "torch"]

# Measured with MiniLM: on a CPU 500 tokens a core are the fastest batch, and a pass costs what some
# 16 tokens a core cost; a GPU wants far larger ones, and padding is nearly free there.
ONE_CORE_COST = BatchCost(max_tokens=512, pass_tokens=16)
CPU_COST = BatchCost(max_tokens=1024, pass_tokens=32)
GPU_COST = BatchCost(max_tokens=32_768, pass_tokens=2048)


class DualEncoder:
    """Encodes questions and passages; safe to call from several threads on a CPU."""

    def __init__(
        self,
        *,
        name: str,
        towers: dict[Role, Tower],
        forwards: dict[Role, Forward],
        device: str,
        backend: Backend,
        dtype: str,
        n_threads: int,
    ) -> None:
        self.name = name
        self.device = device
        self.backend = backend
        self.dtype = dtype
        one_core = all(forward.on_one_core() is not None for forward in forwards.values())
        self.n_streams = n_threads if one_core else 1
        """Passes worth running side by side, on a core each; 1 where a pass takes all cores."""
        self.cost = CPU_COST if device == "cpu" else GPU_COST
        self.stream_cost = ONE_CORE_COST if self.n_streams > 1 else self.cost
        self._tokenizers = {role: tower.tokenizer for role, tower in towers.items()}
        self._forwards = forwards
        self.contract = EncoderContract(
            model=name,
            question=self._contract_of(Role.QUERY, towers[Role.QUERY]),
            passage=self._contract_of(Role.PASSAGE, towers[Role.PASSAGE]),
        )

    def tower(self, role: Role) -> TowerContract:
        """The contract of one side."""
        return self.contract.question if role is Role.QUERY else self.contract.passage

    def tokenize(
        self, texts: Sequence[str], role: Role, titles: Sequence[str] | None = None
    ) -> list[TokenizedText]:
        """Tokens of each text, cut at the tower's maximum; titles go before their texts."""
        return self._tokenizers[role].tokenize(texts, titles)

    def forward(
        self, tokenized: Sequence[TokenizedText], role: Role, *, one_core: bool = False
    ) -> Vectors:
        """Vectors (n, dim) of one batch, padded to its longest text.

        Args:
            tokenized: at least one.
            role: the tower.
            one_core: leave the other cores to passes side by side, of which there are `n_streams`.
        """
        forward = self._forwards[role]
        if one_core:
            forward = forward.on_one_core() or forward
        return forward(self._tokenizers[role].pad(tokenized))

    def encode(
        self, texts: Sequence[str], role: Role, titles: Sequence[str] | None = None
    ) -> Vectors:
        """Vectors (n, dim) in the order of `texts`, in batches of similar length."""
        tokenized = self.tokenize(texts, role, titles)
        vectors = np.empty((len(tokenized), self.tower(role).dim), dtype=np.float32)
        for rows in plan_batches([text.n_tokens for text in tokenized], self.cost):
            vectors[rows] = self.forward([tokenized[row] for row in rows], role)
        return vectors

    def shares_network(self) -> bool:
        """Whether questions and passages may ride in one batch: one network serves both."""
        return self._forwards[Role.QUERY] is self._forwards[Role.PASSAGE]

    def _contract_of(self, role: Role, tower: Tower) -> TowerContract:
        probe_vectors = self.forward(self.tokenize(PROBE_TEXTS, role), role)
        if not np.isfinite(probe_vectors).all():
            raise ConfigError(
                f"model {self.name} makes vectors that aren't finite in {self.dtype} on "
                f"{self.device}; choose another --dtype, such as float32"
            )
        return TowerContract(
            fingerprint=tower.fingerprint,
            dim=tower.dim,
            max_tokens=tower.max_tokens,
            pooling=tower.pooling,
            normalized=tower.normalized,
            prompt=tower.prompt,
            probe_texts=PROBE_TEXTS,
            probe_vectors=tuple(tuple(row) for row in probe_vectors.tolist()),
        )


def load_encoder(
    model: str,
    *,
    device: str = "auto",
    backend: Literal["auto", "onnxruntime", "torch"] = "auto",
    dtype: str = "auto",
    query_prompt: str | None = None,
    passage_prompt: str | None = None,
    n_threads: int = 0,
    whole_texts: bool = False,
) -> DualEncoder:
    """Loads a dual encoder.

    Args:
        model: a folder, an installed package that carries a model, a hub name, or two with a comma.
        device: "auto", "cpu", "cuda" or "cuda:N".
        backend: "auto" is onnxruntime on a CPU where the model allows it, else torch.
        dtype: "auto", "float32", "float16" or "bfloat16".
        query_prompt: in place of the model's own; None keeps that.
        passage_prompt: likewise.
        n_threads: threads of a pass; 0 is OMP_NUM_THREADS or all cores.
        whole_texts: cut texts only where the network ends, as `load_towers`.

    Raises:
        ConfigError: a model that can't be found or loaded, or a device that isn't there.
    """
    device = resolve_device(device)
    dtype = resolve_dtype(dtype, device)
    if backend == "onnxruntime" and (device != "cpu" or dtype != "float32"):
        raise ConfigError(
            f"backend onnxruntime serves float32 on a CPU, not {dtype} on {device}; use torch"
        )
    source = find_model(model)
    towers = load_towers(
        source, query_prompt=query_prompt, passage_prompt=passage_prompt, whole_texts=whole_texts
    )
    n_threads = n_threads or n_cores()
    torch.set_num_threads(n_threads)
    chosen: Backend = "torch"
    forwards: dict[Role, Forward] = {}
    if backend != "torch" and device == "cpu" and dtype == "float32":
        try:
            forwards = _onnx_forwards(towers, n_threads)
            chosen = "onnxruntime"
        except GraphError as failure:
            if backend == "onnxruntime":
                raise ConfigError(
                    f"model {model} doesn't run in onnxruntime: {failure}"
                ) from failure
            logger.warning("model %s runs in eager torch, onnxruntime can't: %s", model, failure)
    if not forwards:
        forwards = _torch_forwards(towers, device, dtype)
    return DualEncoder(name=source.name, towers=towers, forwards=forwards, device=device,
                       backend=chosen, dtype=dtype, n_threads=n_threads)  # fmt: skip


def _torch_forwards(towers: dict[Role, Tower], device: str, dtype: str) -> dict[Role, Forward]:
    by_network: dict[str, Forward] = {}
    for tower in towers.values():
        if tower.graph_key not in by_network:
            by_network[tower.graph_key] = TorchForward(tower.network, device=device, dtype=dtype)
    return {role: by_network[tower.graph_key] for role, tower in towers.items()}


def _onnx_forwards(towers: dict[Role, Tower], n_threads: int) -> dict[Role, Forward]:
    by_network: dict[str, Forward] = {}
    for tower in towers.values():
        if tower.graph_key in by_network:
            continue
        probe = tower.tokenizer.pad(tower.tokenizer.tokenize(PROBE_TEXTS))
        expected = TorchForward(tower.network, device="cpu", dtype="float32")(probe)
        session, path = load_graph(
            tower.network, tower.graph_key, probe, expected, n_threads=n_threads
        )
        by_network[tower.graph_key] = OnnxForward(session, path)
    return {role: by_network[tower.graph_key] for role, tower in towers.items()}
