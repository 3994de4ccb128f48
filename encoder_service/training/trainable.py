"""Towers that can be trained: encoding with a graph, and writing their folders again.

The towers are the ones that serve, with their tokenizers, prompts and titles, so that what is
trained is what is served.
"""

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from encoder_service.batching import BatchCost, plan_batches
from encoder_service.roles import Role
from encoder_service.source import ModelSource
from encoder_service.tokenizing import TokenizedText
from encoder_service.towers import Tower, load_towers
from encoder_service.training.pairs import PassageText
from encoder_service.training.settings import Precision
from shoal.errors import ConfigError

_VALIDATION_COST = BatchCost(max_tokens=4096, pass_tokens=64)
_CPU_COST = BatchCost(max_tokens=8192, pass_tokens=1024)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainableTowers:
    """Both towers on one device. `shared` ones are one network."""

    question: Tower
    passage: Tower
    shared: bool
    device: torch.device
    bfloat16: bool

    @property
    def normalized(self) -> bool:
        """Whether both towers' vectors have length 1."""
        return self.question.normalized and self.passage.normalized

    def networks(self) -> dict[str, nn.Module]:
        """By name: one where the towers share it, else two."""
        if self.shared:
            return {"model": self.question.network}
        return {"question": self.question.network, "passage": self.passage.network}

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """What is trained."""
        for name, network in self.networks().items():
            for inner, parameter in network.named_parameters(prefix=name):
                if parameter.requires_grad:
                    yield inner, parameter

    def train(self) -> None:
        """Dropout on."""
        for network in self.networks().values():
            network.train()

    def evaluate(self) -> None:
        """Dropout off."""
        for network in self.networks().values():
            network.eval()

    def encode_questions(self, texts: Sequence[str]) -> Tensor:
        """Vectors (n, dim) of questions, with a graph where it is wanted."""
        return self._encode(self.question, self.question.tokenizer.tokenize(texts))

    def encode_passages(self, passages: Sequence[PassageText]) -> Tensor:
        """As `encode_questions`, for passages with their titles."""
        texts, titles = [p.text for p in passages], [p.title for p in passages]
        return self._encode(self.passage, self.passage.tokenizer.tokenize(texts, titles))

    @torch.no_grad()
    def encode_all(self, role: Role, texts: Sequence[str], titles: Sequence[str] | None) -> Tensor:
        """Vectors (n, dim) of many texts, in batches of similar length, without a graph."""
        tower = self.question if role is Role.QUERY else self.passage
        tokenized = tower.tokenizer.tokenize(texts, titles)
        vectors = torch.empty((len(tokenized), tower.dim), device=self.device)
        for rows in plan_batches([text.n_tokens for text in tokenized], _VALIDATION_COST):
            batch = [tokenized[row] for row in rows]
            vectors[rows] = self._forward(tower, batch).float()
        return vectors

    def save(self, folder: Path) -> dict[str, Path]:
        """Writes each network's folder under `folder`, as sentence-transformers reads it."""
        towers = {"model": self.question} if self.shared else {
            "question": self.question, "passage": self.passage}  # fmt: skip
        for name, tower in towers.items():
            tower.save(folder / name)
        return {name: folder / name for name in towers}

    def _encode(self, tower: Tower, tokenized: Sequence[TokenizedText]) -> Tensor:
        """One padded pass on a GPU; on a CPU passes of similar length, for there padding costs."""
        if self.device.type != "cpu":
            return self._forward(tower, tokenized)
        batches = plan_batches([text.n_tokens for text in tokenized], _CPU_COST)
        vectors = [self._forward(tower, [tokenized[row] for row in rows]) for rows in batches]
        order = torch.tensor([row for rows in batches for row in rows])
        return torch.cat(vectors)[torch.argsort(order)]

    def _forward(self, tower: Tower, tokenized: Sequence[TokenizedText]) -> Tensor:
        padded = tower.tokenizer.pad(tokenized)
        inputs = [padded.input_ids, padded.attention_mask]
        if padded.token_type_ids is not None:
            inputs.append(padded.token_type_ids)
        tensors = [torch.from_numpy(each).to(self.device) for each in inputs]
        with torch.autocast(self.device.type, torch.bfloat16) if self.bfloat16 else nullcontext():
            vectors: Tensor = tower.network(*tensors)
        return vectors


def load_trainable(
    source: ModelSource,
    *,
    device: torch.device,
    shared: bool,
    max_tokens: int | None = None,
    precision: Precision = "auto",
    dropout: float | None = None,
    gradient_checkpointing: bool = False,
) -> TrainableTowers:
    """Loads both towers for training; one folder makes two networks unless they are `shared`.

    Weights are float32. Activations are bfloat16 where `precision` says so; with "auto" on a GPU
    that has them. `dropout` None leaves the model's own.

    Raises:
        ConfigError: as `load_towers`; or two folders, which can't be one network.
    """
    if shared and source.question != source.passage:
        raise ConfigError(
            f"model {source.name!r} is two networks, and only one would be trained and kept as "
            "both; give --towers two, or one of them as --model"
        )
    towers = load_towers(source, max_tokens=max_tokens)
    question, passage = towers[Role.QUERY], towers[Role.PASSAGE]
    if not shared and source.question == source.passage:
        passage = load_towers(source, max_tokens=max_tokens)[Role.PASSAGE]
    loaded = TrainableTowers(
        question=question,
        passage=passage,
        shared=shared,
        device=device,
        bfloat16=_wants_bfloat16(precision, device),
    )
    for network in loaded.networks().values():
        network.to(device)
        for parameter in network.parameters():
            parameter.requires_grad_()
        if dropout is not None:
            _set_dropout(network, dropout)
        if gradient_checkpointing:
            _forget_activations(network)
    return loaded


def _wants_bfloat16(precision: Precision, device: torch.device) -> bool:
    if precision == "auto":
        return device.type == "cuda" and torch.cuda.is_bf16_supported()
    return precision == "bfloat16"


def _set_dropout(network: nn.Module, share: float) -> None:
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.p = share


def _forget_activations(network: nn.Module) -> None:
    """Has the transformer compute its activations again on the way back instead of keeping them."""
    transformer = next(m for m in network.modules() if isinstance(m, PreTrainedModel))
    transformer.activation_checkpointing_enable()
