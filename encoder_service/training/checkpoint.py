"""A run's state on disk: whole or absent, without pickle.

A checkpoint is a folder `step-000100` with the tensors (safetensors) and the rest (JSON); it gets
its name when both are on the disk, and the one before goes then. What isn't in it is a function of
the settings, the data and the step.
"""

import errno
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from shoal.errors import ConfigError
from shoal.formats.files import fsync_dir, guard_storage, write_durably

_OS_ERROR = re.compile(r"\(os error (\d+)\)")  # as Rust tells it
_NAME = re.compile(r"step-(\d{6,})")


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """`step` steps are done; `identity` names the settings and the data that led here."""

    step: int
    identity: str
    tensors: Mapping[str, Tensor]
    state: Mapping[str, Any]


def write_checkpoint(folder: Path, checkpoint: Checkpoint) -> None:
    """Makes `checkpoint` the one that `read_checkpoint` finds.

    Raises:
        StorageError: the disk is full or not ours; the checkpoint before is still there.
    """
    final = folder / f"step-{checkpoint.step:06d}"
    partial = folder / f".{final.name}.partial"
    with guard_storage(folder):
        folder.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        try:
            _save_tensors(checkpoint.tensors, partial / "tensors.safetensors")
            record = {"identity": checkpoint.identity, "state": checkpoint.state}
            write_durably(partial / "state.json", json.dumps(record).encode())
            partial.rename(final)
        except OSError:  # a full disk needs its room back
            shutil.rmtree(partial, ignore_errors=True)
            raise
        fsync_dir(folder)
        for path in folder.iterdir():
            if path != final and (_NAME.fullmatch(path.name) or path.name.endswith(".partial")):
                shutil.rmtree(path)


@contextmanager
def guard_tensors(path: Path) -> Iterator[None]:
    """Has the disk's refusals be OSErrors: safetensors has an error of its own for them."""
    try:
        yield
    except SafetensorError as failure:
        told = _OS_ERROR.search(str(failure))
        if told is None:
            raise OSError(errno.EIO, str(failure), str(path)) from failure
        raise OSError(int(told[1]), os.strerror(int(told[1])), str(path)) from failure


def _save_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    with guard_tensors(path):
        save_file({name: each.contiguous() for name, each in tensors.items()}, path)
    with path.open("rb") as file:
        os.fsync(file.fileno())


def read_checkpoint(folder: Path, identity: str) -> Checkpoint | None:
    """The newest checkpoint, None where there is none.

    Raises:
        ConfigError: it is of another training, or damaged.
    """
    found = {
        int(match[1]): path
        for path in (folder.iterdir() if folder.is_dir() else ())
        if (match := _NAME.fullmatch(path.name))
    }
    if not found:
        return None
    step = max(found)
    try:
        record = json.loads((found[step] / "state.json").read_text(encoding="utf-8"))
        of, state = record["identity"], record["state"]
    except (OSError, ValueError, KeyError, TypeError) as failure:
        raise _damaged(found[step], failure) from failure
    if of != identity:
        raise ConfigError(
            f"{folder.parent} holds a training begun with other settings or data; choose another "
            "--out, or --restart to throw it away"
        )
    try:
        tensors = load_file(found[step] / "tensors.safetensors")
    except (OSError, SafetensorError) as failure:
        raise _damaged(found[step], failure) from failure
    return Checkpoint(step=step, identity=identity, tensors=tensors, state=state)


def _damaged(path: Path, failure: Exception) -> ConfigError:
    return ConfigError(f"the checkpoint {path} is damaged ({failure}); --restart begins anew")
