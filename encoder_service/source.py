"""From a model's name to folders that are safe to load.

Rule: only safetensors weights and only module types of a closed list are loaded, and no code that
a model brings along ever runs. Checked here, before anything of the folder is opened by a library.
"""

import importlib.util
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shoal.errors import ConfigError

MODULES_WITH_WEIGHTS = frozenset({"Transformer", "Dense", "LayerNorm"})
MODULES = MODULES_WITH_WEIGHTS | {"Pooling", "Normalize", "Dropout"}
_HUB_PATTERNS = ["*.json", "*.txt", "*.safetensors", "*.model"]
_HUB_IGNORED = ["onnx/*", "openvino/*"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSource:
    """Where a dual encoder's files are; both folders are one where the towers share a model."""

    name: str
    """The model as it can be asked for again; folders are absolute."""
    question: Path
    passage: Path


def find_model(model: str) -> ModelSource:
    """Finds `model`: a folder, an installed package, a hub name, or two of them with a comma.

    Raises:
        ConfigError: it is nowhere, or its folder holds what is never loaded.
    """
    parts = [model] if Path(model).is_dir() else [part.strip() for part in model.split(",")]
    if len(parts) > 2 or not all(parts):
        raise ConfigError(f"model {model!r}: give one model, or QUESTION,PASSAGE")
    folders = [_find_folder(part) for part in parts]
    for folder in folders:
        check_folder(folder)
    names = [str(folder) if Path(part).is_dir() else part
             for part, folder in zip(parts, folders, strict=True)]  # fmt: skip
    return ModelSource(name=",".join(names), question=folders[0], passage=folders[-1])


def check_folder(folder: Path) -> None:
    """Refuses a model folder that would need pickle, or code of its own.

    Raises:
        ConfigError: naming the file and what to do.
    """
    for module_class, module_folder in module_folders(folder):
        if module_class in MODULES_WITH_WEIGHTS and not weight_files(module_folder):
            raise ConfigError(
                f"{module_folder} has no model.safetensors; weights in other formats are not read: "
                "save the model again with save_pretrained, which writes safetensors"
            )
        for name in ("config.json", "tokenizer_config.json"):
            settings = read_json(module_folder / name)
            if settings.get("auto_map"):
                raise ConfigError(
                    f"{module_folder / name} asks for code of the model's own (auto_map), which is "
                    "never run; choose a model whose architecture transformers has itself"
                )
            activation = settings.get("activation_function")
            if isinstance(activation, str) and not activation.startswith("torch."):
                raise ConfigError(
                    f"{module_folder / name} names activation_function {activation!r}; only "
                    "those of torch are used"
                )


def module_folders(folder: Path) -> Iterator[tuple[str, Path]]:
    """The class and the folder of each sentence-transformers module; a plain model is one."""
    if not (folder / "modules.json").is_file():
        if not (folder / "config.json").is_file():
            raise ConfigError(
                f"{folder} is not a model: it has neither modules.json nor config.json"
            )
        yield "Transformer", folder
        return
    modules = read_json(folder / "modules.json", kind=list)
    for module in modules:
        package, _, name = str(module.get("type", "")).rpartition(".")
        if package.partition(".")[0] != "sentence_transformers" or name not in MODULES:
            raise ConfigError(
                f"{folder / 'modules.json'} names module type {module.get('type')!r}; known are "
                f"sentence_transformers' {', '.join(sorted(MODULES))}"
            )
        path = (folder / str(module.get("path", ""))).resolve()
        if not path.is_relative_to(folder.resolve()):
            raise ConfigError(f"{folder / 'modules.json'}: path {module.get('path')!r} leaves it")
        yield name, path


def transformer_folder(folder: Path) -> Path:
    """Where the transformer and its tokenizer are: old folders keep them in a subfolder."""
    return next(path for name, path in module_folders(folder) if name == "Transformer")


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of one module, in order; empty where there are none."""
    whole = folder / "model.safetensors"
    if whole.is_file():
        return [whole]
    index = read_json(folder / "model.safetensors.index.json")
    names = sorted(set(index.get("weight_map", {}).values()))
    return [folder / Path(name).name for name in names]


def read_json(path: Path, *, kind: type[Any] = dict) -> Any:
    """A JSON file's content, which must be of `kind`; an empty one where the file is missing."""
    if not path.is_file():
        return kind()
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as failure:
        raise ConfigError(f"can't read {path}: {failure}") from failure
    if not isinstance(content, kind):
        raise ConfigError(f"{path} holds {type(content).__name__}, expected {kind.__name__}")
    return content


def _find_folder(name: str) -> Path:
    folder = Path(name)
    if folder.is_dir():
        return folder.resolve()
    return _package_folder(name) or _hub_folder(name)


def _package_folder(name: str) -> Path | None:
    """The `model` folder of an installed package; looked up, not imported."""
    if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
        return None
    spec = importlib.util.find_spec(name.replace("-", "_"))
    if spec is None or spec.origin is None:
        return None
    folder = Path(spec.origin).parent / "model"
    return folder.resolve() if folder.is_dir() else None


def _hub_folder(name: str) -> Path:
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?", name):
        raise ConfigError(f"model {name!r}: no such folder")
    from huggingface_hub import snapshot_download  # noqa: PLC0415 -- only where a hub name is given

    try:
        return Path(snapshot_download(name, allow_patterns=_HUB_PATTERNS,
                                      ignore_patterns=_HUB_IGNORED))  # fmt: skip
    except (OSError, ValueError) as failure:
        reason = str(failure).strip().partition("\n")[0]
        raise ConfigError(
            f"model {name!r}: no such folder, no installed package with a model in it, and the "
            f"hub gave none: {reason}"
        ) from failure
