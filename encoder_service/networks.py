"""A tower's network: token ids to one vector a text, as a function of tensors and nothing else.

So the same thing runs eagerly, exports to a graph, and moves to a GPU.
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn


class SentenceNetwork(nn.Module):
    """A sentence-transformers model: its modules, one after the other."""

    def __init__(self, stages: Sequence[nn.Module], *, dim: int, n_prompt_tokens: int) -> None:
        super().__init__()
        self.stages = nn.ModuleList(stages)
        self._dim = dim
        self._n_prompt_tokens = n_prompt_tokens

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None
    ) -> Tensor:
        """Three (n, longest) int64 tensors to (n, dim) vectors."""
        features: dict[str, Any] = {"input_ids": input_ids, "attention_mask": attention_mask}
        if token_type_ids is not None:
            features["token_type_ids"] = token_type_ids
        if self._n_prompt_tokens:
            features["prompt_length"] = self._n_prompt_tokens
        for stage in self.stages:
            features = stage(features)
        vectors: Tensor = features["sentence_embedding"]
        return vectors[:, : self._dim]


class DprNetwork(nn.Module):
    """A DPR encoder: the first token's state, projected where the model projects it."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None
    ) -> Tensor:
        """Three (n, longest) int64 tensors to (n, dim) vectors."""
        vectors: Tensor = self.encoder(
            input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids
        ).pooler_output
        return vectors
