"""The two towers of a dual encoder: each a network, a tokenizer, and what a contract says of it.

Towers of one model share its network. Knows nothing of where a network runs.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import nn
from transformers import PreTrainedTokenizerBase

from encoder_service.fingerprint import (
    architecture_settings,
    settings_digest,
    tokenizer_digest,
    weights_digest,
)
from encoder_service.loading import LoadedModel, load_folder
from encoder_service.roles import Role
from encoder_service.source import ModelSource
from encoder_service.tokenizing import TextTokenizer
from shoal.errors import ConfigError

_NO_LIMIT = 1_000_000  # transformers writes 1e30 where a tokenizer names no limit
_MAX_TOKENS_WITHOUT_LIMIT = 512
_POSITIONS_AFTER_PADDING = {"roberta", "xlm-roberta", "camembert", "mpnet"}
"""Kinds of networks that count positions from behind the padding's id."""


# sentence-transformers' names for the prompts of each side, the first that a model has
_PROMPT_NAMES = {Role.QUERY: ("query",), Role.PASSAGE: ("document", "passage", "corpus")}


@dataclass(frozen=True, slots=True, kw_only=True)
class Tower:
    """One side of a dual encoder. `graph_key` names its network: equal keys, equal functions."""

    network: nn.Module
    tokenizer: TextTokenizer
    graph_key: str
    fingerprint: str
    dim: int
    max_tokens: int
    pooling: str
    normalized: bool
    prompt: str
    save: Callable[[Path], None]
    """Writes its model's folder, with the weights as they are then."""


def load_towers(
    source: ModelSource,
    *,
    query_prompt: str | None = None,
    passage_prompt: str | None = None,
    max_tokens: int | None = None,
    whole_texts: bool = False,
) -> dict[Role, Tower]:
    """Loads both towers.

    Args:
        source: checked folders.
        query_prompt: put before questions in place of the model's own prompt; None keeps that.
        passage_prompt: as `query_prompt`, for passages.
        max_tokens: cuts texts shorter than the models would; None leaves it to them.
        whole_texts: read as far as the networks can, beyond where the models would cut: to
            measure what cutting costs.

    Raises:
        ConfigError: a folder that can't be loaded, or towers whose vectors don't fit together.
    """
    models = {folder: load_folder(folder) for folder in {source.question, source.passage}}
    weights = {folder: weights_digest(folder) for folder in models}
    towers = {}
    for role, folder, prompt in (
        (Role.QUERY, source.question, query_prompt),
        (Role.PASSAGE, source.passage, passage_prompt),
    ):
        towers[role] = _tower(
            models[folder],
            weights[folder],
            prompt=_own_prompt(models[folder], role) if prompt is None else prompt,
            max_tokens=_longest(models[folder])
            if whole_texts
            else min(_max_tokens(models[folder]), max_tokens or _NO_LIMIT),
        )
    question, passage = towers[Role.QUERY], towers[Role.PASSAGE]
    if question.dim != passage.dim:
        raise ConfigError(
            f"{source.question} makes vectors of {question.dim} dimensions, {source.passage} of "
            f"{passage.dim}; a question and a passage tower must agree"
        )
    return towers


def _tower(model: LoadedModel, weights: str, *, prompt: str, max_tokens: int) -> Tower:
    n_prompt_tokens = _n_prompt_tokens(model.pretrained, prompt) if model.leaves_prompt_out else 0
    function = {
        "weights": weights,
        "architecture": architecture_settings(model.folder),
        "stages": model.stages,
        "pooling": model.pooling,
        "normalized": model.normalized,
        "dim": model.dim,
        "n_prompt_tokens": n_prompt_tokens,
    }
    reading = {
        "tokenizer": tokenizer_digest(model.folder),
        "titles_as_pairs": model.titles_as_pairs,
        "prompt": prompt,
        "max_tokens": max_tokens,
    }
    return Tower(
        network=model.make_network(n_prompt_tokens),
        tokenizer=TextTokenizer(
            model.pretrained,
            max_tokens=max_tokens,
            prompt=prompt,
            reads_type_ids="token_type_ids" in model.pretrained.model_input_names
            and "token_type_ids" in inspect.signature(model.transformer.forward).parameters,
            titles_as_pairs=model.titles_as_pairs,
        ),
        graph_key=settings_digest(function),
        fingerprint=settings_digest(function | reading),
        dim=model.dim,
        max_tokens=max_tokens,
        pooling=model.pooling,
        normalized=model.normalized,
        prompt=prompt,
        save=model.save,
    )


def _own_prompt(model: LoadedModel, role: Role) -> str:
    return next((model.prompts[n] for n in _PROMPT_NAMES[role] if n in model.prompts), "")


def _n_prompt_tokens(pretrained: PreTrainedTokenizerBase, prompt: str) -> int:
    """Tokens that pooling leaves out: the prompt's, without a closing special token."""
    if not prompt:
        return 0
    ids = pretrained(prompt)["input_ids"]
    return len(ids) - (ids[-1] in pretrained.all_special_ids)


def _max_tokens(model: LoadedModel) -> int:
    positions = getattr(model.transformer.config, "max_position_embeddings", None) or _NO_LIMIT
    max_tokens = min(int(model.pretrained.model_max_length), int(positions))
    return max_tokens if max_tokens < _NO_LIMIT else _MAX_TOKENS_WITHOUT_LIMIT


def _longest(model: LoadedModel) -> int:
    """Tokens that the network has positions for; what the model cuts at where it names none."""
    config = model.transformer.config
    positions = int(getattr(config, "max_position_embeddings", None) or 0)
    if config.model_type in _POSITIONS_AFTER_PADDING:
        positions -= int(config.pad_token_id) + 1
    return max(positions, _max_tokens(model))
