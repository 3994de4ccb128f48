"""The output folder of a training: whose it is, who is at it, and what a restart removes.

Rule: what no training wrote is never touched, and one training writes at a time.
"""

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from encoder_service.source import ModelSource, read_json
from encoder_service.training.pairs import TrainingPair
from shoal.errors import ConfigError, LockedError
from shoal.formats.files import guard_storage

REPORT = "training.json"
CHECKPOINTS = ".checkpoints"
UNFINISHED = ".models.partial"
"""Where models are until they are whole."""

_LOCK = ".lock"
_OURS = {CHECKPOINTS, REPORT, UNFINISHED, "model", "question", "passage"}


def identity_of(about: Mapping[str, Any], pairs: Iterable[TrainingPair]) -> str:
    """What makes two trainings one: `about` (JSON), and every word of the data in its order."""
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    for pair in pairs:
        passages = [(p.title, p.text) for p in (pair.positive, *pair.hard_negatives)]
        words = (pair.question, passages, sorted(pair.gold_keys), pair.group)
        digest.update(json.dumps(words).encode())
    return digest.hexdigest()


@contextmanager
def hold(out: Path) -> Iterator[None]:
    """Keeps `out` for one training; where that leaves no checkpoint, nothing of it stays.

    The kernel drops the lock with its process, so that a killed training leaves none behind.

    Raises:
        LockedError: another process trains into it.
        StorageError: it can't be written.
    """
    folder = out / CHECKPOINTS
    path = folder / _LOCK
    with guard_storage(folder):
        folder.mkdir(parents=True, exist_ok=True)
        file = path.open("a+b")
    with file:
        with guard_storage(folder):  # some network disks know no locks
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # who fails takes the lock's file away: ours must still have the name
                held = path.exists() and path.stat().st_ino == os.fstat(file.fileno()).st_ino
            except BlockingIOError:
                held = False
        if not held:
            raise LockedError(
                f"{out}: another process trains into it; wait, or choose another --out"
            )
        try:
            yield
        finally:
            with suppress(OSError):  # there is more in `out`, or it isn't ours to remove
                if {each.name for each in folder.iterdir()} == {_LOCK}:
                    path.unlink()
                    folder.rmdir()
                    out.rmdir()


def refuse_foreign(out: Path, identity: str) -> None:
    """Refuses a folder that holds anything but this very training.

    Raises:
        ConfigError: saying what it holds.
    """
    _refuse_file(out)
    if (out / REPORT).is_file():
        if read_json(out / REPORT).get("identity") != identity:
            raise ConfigError(
                f"{out} holds another training's models; choose another --out, or --restart to "
                "throw them away"
            )
    elif (
        out.exists()
        and any(out.iterdir())
        # models without a report: killed while they were written, after the last checkpoint
        and not ((out / CHECKPOINTS).is_dir() and {path.name for path in out.iterdir()} <= _OURS)
    ):
        raise ConfigError(f"{out} is not empty and holds no training; choose another --out")


def refuse_to_throw_away(out: Path, source: ModelSource) -> None:
    """Refuses a restart that would remove what no training wrote, or what it is to start from.

    Raises:
        ConfigError: naming that.
    """
    _refuse_file(out)
    for folder in (source.question, source.passage):
        if folder.resolve().is_relative_to(out.resolve()):
            raise ConfigError(
                f"the training starts from {folder}, which --restart would throw away; choose "
                "another --out"
            )
    found = out.iterdir() if out.exists() else ()
    if strange := sorted(path.name for path in found if path.name not in _OURS):
        raise ConfigError(f"{out} holds {strange[0]}, which no training wrote; nothing was removed")


def throw_away(out: Path) -> None:
    """Removes a training's files from `out`, which this process holds.

    Raises:
        StorageError: they aren't ours to remove.
    """
    with guard_storage(out):
        models = [path for path in out.iterdir() if path.name in _OURS - {CHECKPOINTS}]
        for path in [*models, *(out / CHECKPOINTS).iterdir()]:
            if path.name == _LOCK:
                continue
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()


def _refuse_file(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise ConfigError(f"{out} is no folder; choose another --out")
