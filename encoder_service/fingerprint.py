"""The fingerprint of a tower: SHA-256 over everything that changes its vectors, and nothing else.

In it: weights (names, shapes, values), tokenizer, architecture, pooling and the modules after it,
prompt, maximum length, output dimension. Not in it: path, device, backend, number type.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from encoder_service.source import (
    module_folders,
    read_json,
    transformer_folder,
    weight_files,
)

# what the same weights need to be read the same way; spelled alike by every release of transformers
_ARCHITECTURE = ("model_type", "hidden_act", "num_attention_heads", "num_key_value_heads",
                 "layer_norm_eps", "rms_norm_eps", "projection_dim")  # fmt: skip
_VOCABULARY_FILES = ("vocab.txt", "vocab.json", "merges.txt", "sentencepiece.bpe.model",
                     "tokenizer.model", "spiece.model")  # fmt: skip
_TOKENIZER_SETTINGS = ("do_lower_case", "strip_accents", "tokenize_chinese_chars",
                       "add_prefix_space", "add_bos_token", "add_eos_token")  # fmt: skip


def settings_digest(settings: Mapping[str, Any]) -> str:
    """SHA-256 in hex of plain settings, whatever their order."""
    text = json.dumps(settings, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def weights_digest(folder: Path) -> str:
    """SHA-256 in hex of a model folder's tensors, by name, as float32 whatever they are stored in.

    Reads one tensor at a time: a model larger than memory has a fingerprint too.
    """
    digest = hashlib.sha256()
    for position, (_, module_folder) in enumerate(module_folders(folder)):
        for path in weight_files(module_folder):
            with safe_open(path, framework="pt") as tensors:
                for name in sorted(tensors.keys()):
                    tensor = tensors.get_tensor(name)
                    digest.update(f"{position}:{name}:{tuple(tensor.shape)};".encode())
                    if tensor.is_floating_point():
                        tensor = tensor.to(torch.float32)
                    digest.update(tensor.contiguous().numpy().data)
    return digest.hexdigest()


def tokenizer_digest(folder: Path) -> str:
    """SHA-256 in hex of the tokenizer's files in `folder`; padding and truncation are not of it."""
    digest = hashlib.sha256()
    folder = transformer_folder(folder)
    whole = read_json(folder / "tokenizer.json")
    if whole:
        whole.pop("padding", None)
        whole.pop("truncation", None)
        digest.update(settings_digest(whole).encode())
    else:
        for name in _VOCABULARY_FILES:
            if (folder / name).is_file():
                digest.update(f"{name};".encode())
                digest.update((folder / name).read_bytes())
    settings = read_json(folder / "tokenizer_config.json")
    digest.update(
        settings_digest({k: settings[k] for k in _TOKENIZER_SETTINGS if k in settings}).encode()
    )
    return digest.hexdigest()


def architecture_settings(folder: Path) -> dict[str, Any]:
    """The few settings of a transformer's config.json that its weights don't show."""
    config = read_json(transformer_folder(folder) / "config.json")
    return {key: config[key] for key in _ARCHITECTURE if key in config}
