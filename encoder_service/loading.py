"""From a checked model folder to what its library makes of it, as float32 on the CPU.

sentence-transformers reads its own folders and plain transformers models (mean pooling then); DPR's
encoders are read by transformers. No code of a model's own runs, and nothing is downloaded.
"""

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling
from torch import nn
from transformers import AutoTokenizer, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from encoder_service.networks import DprNetwork, SentenceNetwork
from encoder_service.source import read_json
from shoal.errors import ConfigError

_DPR = ("DPRQuestionEncoder", "DPRContextEncoder")
_FAULTS = (
    OSError, ValueError, RuntimeError, KeyError, TypeError, AttributeError, SafetensorError,
)  # fmt: skip
_STAGE_SETTINGS = ("use_residual", "module_input_name", "module_output_name")


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedModel:
    """A model folder in memory; `make_network(n_prompt_tokens)` is its function of token ids."""

    folder: Path
    transformer: Any
    pretrained: PreTrainedTokenizerBase
    prompts: Mapping[str, str]
    dim: int
    pooling: str
    stages: list[dict[str, Any]]
    """The modules after the transformer, as plain settings."""
    normalized: bool
    leaves_prompt_out: bool
    """Whether pooling skips the prompt's tokens."""
    titles_as_pairs: bool
    make_network: Callable[[int], nn.Module]
    save: Callable[[Path], None]
    """Writes a folder of the same kind, with the weights as they are then."""


def load_folder(folder: Path) -> LoadedModel:
    """Loads a folder that `source.check_folder` has passed.

    Raises:
        ConfigError: the library can't load it, or it reads more than plain text.
    """
    architectures = read_json(folder / "config.json").get("architectures") or [""]
    read = _read_dpr if architectures[0] in _DPR else _read_sentence_transformer
    try:
        with _quiet_libraries():
            model = read(folder)
    except _FAULTS as failure:
        reason = str(failure).strip().partition("\n")[0]
        raise ConfigError(f"model folder {folder} can't be loaded: {reason}") from failure
    if len(model.pretrained) <= len(set(model.pretrained.all_special_tokens)):
        # what transformers makes where there is none: every word would be the unknown one
        raise ConfigError(
            f"model folder {folder} has no tokenizer: neither tokenizer.json nor a vocabulary; "
            "save one beside the model"
        )
    return model


def _read_dpr(folder: Path) -> LoadedModel:
    model_class = getattr(transformers, read_json(folder / "config.json")["architectures"][0])
    model = model_class.from_pretrained(folder, dtype=torch.float32, use_safetensors=True).eval()
    pretrained = AutoTokenizer.from_pretrained(folder)
    network = DprNetwork(model)

    def save(into: Path) -> None:
        with _quiet_libraries():
            model.save_pretrained(into)
            pretrained.save_pretrained(into)

    return LoadedModel(
        folder=folder,
        transformer=model,
        pretrained=pretrained,
        prompts={},
        dim=int(model.config.projection_dim or model.config.hidden_size),
        pooling="cls",
        stages=[],
        normalized=False,
        leaves_prompt_out=False,
        titles_as_pairs=True,
        make_network=lambda _: network,
        save=save,
    )


def _read_sentence_transformer(folder: Path) -> LoadedModel:
    model = SentenceTransformer(
        str(folder),
        device="cpu",
        local_files_only=True,
        model_kwargs={"dtype": torch.float32, "use_safetensors": True},
    ).eval()
    stages = list(model)
    transformer: Any = stages[0]
    if set(transformer.modality_config) != {"text"}:
        raise ConfigError(
            f"{folder} reads its input through a chat template or other media; only models of "
            "plain text are served"
        )
    dim = int(model.get_embedding_dimension() or 0)
    poolings = [stage for stage in stages if isinstance(stage, Pooling)]

    def save(into: Path) -> None:
        with _quiet_libraries():
            model.save_pretrained(str(into), create_model_card=False)

    return LoadedModel(
        folder=folder,
        transformer=transformer.model,
        pretrained=model.tokenizer,
        prompts={name: prompt for name, prompt in model.prompts.items() if prompt},
        dim=dim,
        pooling="+".join(_pooling_name(pooling) for pooling in poolings) or "none",
        stages=[_stage_settings(stage) for stage in stages[1:]],
        normalized=isinstance(stages[-1], Normalize) and not model.truncate_dim,
        leaves_prompt_out=any(not pooling.include_prompt for pooling in poolings),
        titles_as_pairs=False,
        make_network=lambda n_prompt_tokens: SentenceNetwork(
            stages, dim=dim, n_prompt_tokens=n_prompt_tokens
        ),
        save=save,
    )


def _pooling_name(pooling: Pooling) -> str:
    modes = pooling.pooling_mode
    return modes if isinstance(modes, str) else "+".join(modes)


def _stage_settings(stage: nn.Module) -> dict[str, Any]:
    settings = {name: getattr(stage, name) for name in _STAGE_SETTINGS if hasattr(stage, name)}
    activation = getattr(stage, "activation_function", None)
    return {"kind": type(stage).__name__, "activation": type(activation).__name__} | settings


@contextmanager
def _quiet_libraries() -> Iterator[None]:
    """Neither progress bars nor advice on stderr; what goes wrong is an exception."""
    loggers = [logging.getLogger(name) for name in ("transformers", "sentence_transformers")]
    levels = [each.level for each in loggers]
    for each in loggers:
        each.setLevel(logging.ERROR)
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        for each, level in zip(loggers, levels, strict=True):
            each.setLevel(level)
        transformers_logging.enable_progress_bar()  # type: ignore[no-untyped-call]
