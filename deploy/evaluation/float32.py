"""Passages in float32, unrounded: as the index cuts them, and whole; kept by it, or encoded again.

Rule: encoding takes long, so it is kept in a folder, chunk by chunk, and goes on where it was; what
belongs to another index or model is refused. A passage that was not cut is encoded once for both.
"""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from shoal.errors import ConfigError, IndexFormatError
from shoal.evaluation.rankings import Found
from shoal.formats.files import guard_storage, write_durably
from shoal.formats.manifest import FileEntry, Manifest
from shoal.formats.versions import check_file
from shoal.vectors import Matrix

_CHUNK = 4_096
_ABOUT = "about.json"

Progress = Callable[[str, int, int | None], None]


class Reference(Protocol):
    """Encodes passages in float32."""

    dim: int

    def encode(self, titles: Sequence[str], texts: Sequence[str]) -> Matrix:
        """Vectors (n, dim)."""

    def cuts(self, titles: Sequence[str], texts: Sequence[str]) -> npt.NDArray[np.bool_]:
        """Which passages are longer than it reads, (n,)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Float32Vectors:
    """`cut` is (n, dim), by ordinal; `whole` has the vectors of `whole_rows`, which were cut."""

    cut: npt.NDArray[np.float32]
    whole_rows: npt.NDArray[np.int64]
    whole: npt.NDArray[np.float32]

    def of_whole_texts(self) -> npt.NDArray[np.float32]:
        """All passages, none cut but where the network ends: (n, dim), in memory."""
        vectors = np.array(self.cut)
        vectors[self.whole_rows] = self.whole
        return vectors


def open_kept(index_dir: Path, manifest: Manifest) -> Float32Vectors:
    """What `index build --keep-float32` and additions kept; not of an index that keeps nothing.

    Raises:
        IndexFormatError: a file that is missing, altered or of another shape.
    """
    cut, rows, whole = [], [], []
    start = 0
    for part in manifest.float32:
        shape = (part.n_rows, manifest.dim)
        cut.append(_of_index(index_dir, part.cut, np.float32, shape))
        if part.whole_rows is not None and part.whole is not None:
            of_part = _of_index(index_dir, part.whole_rows, np.int64, None)
            shape = (len(of_part), manifest.dim)
            whole.append(_of_index(index_dir, part.whole, np.float32, shape))
            rows.append(start + of_part)
        start += part.n_rows
    return Float32Vectors(
        cut=cut[0] if len(cut) == 1 else np.concatenate(cut),
        whole_rows=np.concatenate([*rows, np.empty(0, dtype=np.int64)]),
        whole=np.concatenate([*whole, np.empty((0, manifest.dim), dtype=np.float32)]),
    )


def prepare(folder: Path, about: str) -> None:
    """Makes the folder, or finds it there, for what `about` names.

    Raises:
        ConfigError: it holds the vectors of something else.
        StorageError: it can't be made.
    """
    path = folder / _ABOUT
    if not path.exists():
        with guard_storage(folder):
            folder.mkdir(parents=True, exist_ok=True)
            write_durably(path, json.dumps({"format": 1, "of": about}).encode())
    elif _owner_of(path) != about:
        raise ConfigError(
            f"{folder} holds float32 vectors of another index or model; give another --float32"
        )


def _owner_of(path: Path) -> object:
    """What the folder is for; None where its description is nobody's."""
    try:
        about = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return about.get("of") if isinstance(about, dict) else None


def encode_again(
    folder: Path,
    passages: Sequence[Found],
    cutting: Reference,
    whole: Reference,
    progress: Progress,
) -> Float32Vectors:
    """The vectors in the folder, which what is missing is added to.

    Args:
        folder: made by `prepare`.
        passages: by ordinal.
        cutting: cuts texts where the index did.
        whole: reads on, as far as its network goes.
        progress: told of "float32" passages and of "whole" ones.
    """
    cut = _encoded(folder / "cut.npy", passages, cutting, "float32", progress)
    rows_path = folder / "whole_rows.npy"
    if not rows_path.exists():
        parts = [
            cutting.cuts([p.title for p in chunk], [p.text for p in chunk])
            for chunk in _chunks(passages)
        ]
        partial = folder / "whole_rows.partial.npy"
        with guard_storage(rows_path):
            np.save(partial, np.flatnonzero(np.concatenate(parts)).astype(np.int64))
            partial.replace(rows_path)
    rows = np.load(rows_path, allow_pickle=False)
    if not rows.size:
        return Float32Vectors(cut=cut, whole_rows=rows, whole=cut[:0])
    long = [passages[row] for row in rows]
    read_on = _encoded(folder / "whole.npy", long, whole, "whole", progress)
    return Float32Vectors(cut=cut, whole_rows=rows, whole=read_on)


def _encoded(
    path: Path, passages: Sequence[Found], encoder: Reference, stage: str, progress: Progress
) -> npt.NDArray[np.float32]:
    """The vectors of `passages`, from the file, or encoded behind what is there."""
    shape = (len(passages), encoder.dim)
    if path.exists():
        return _mapped(path, shape)
    partial, done_path = path.with_suffix(".partial.npy"), path.with_suffix(".done")
    n_done = int(done_path.read_text()) if done_path.exists() and partial.exists() else 0
    with guard_storage(path):
        mode = "r+" if n_done else "w+"
        vectors = np.lib.format.open_memmap(
            partial, mode=mode, dtype=np.float32, shape=None if n_done else shape
        )
        if not n_done:
            # written through a map, a full disk would end the process: take the room now
            with partial.open("r+b") as file:
                os.posix_fallocate(file.fileno(), 0, partial.stat().st_size)
        else:
            progress(f"kept {stage}", n_done, len(passages))
        for chunk in _chunks(passages[n_done:]):
            vectors[n_done : n_done + len(chunk)] = encoder.encode(
                [p.title for p in chunk], [p.text for p in chunk]
            )
            vectors.flush()
            n_done += len(chunk)
            write_durably(done_path, str(n_done).encode())
            progress(stage, n_done, len(passages))
        partial.replace(path)
        done_path.unlink(missing_ok=True)
    return _mapped(path, shape)


def _mapped(path: Path, shape: tuple[int, int]) -> npt.NDArray[np.float32]:
    vectors: npt.NDArray[np.float32] = np.load(path, mmap_mode="r", allow_pickle=False)
    if vectors.shape != shape or vectors.dtype != np.float32:
        raise ConfigError(f"{path}: {vectors.dtype} {vectors.shape}, expected float32 {shape}")
    return vectors


def _of_index(
    index_dir: Path, entry: FileEntry, dtype: type, shape: tuple[int, int] | None
) -> npt.NDArray[Any]:
    path = check_file(index_dir, entry)
    try:
        table: npt.NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except ValueError as error:
        raise IndexFormatError(f"{path}: no .npy: {error}") from None
    wanted = shape or (table.size,)
    if table.dtype != dtype or table.shape != wanted:
        raise IndexFormatError(
            f"{path}: {table.dtype} {table.shape}, expected {np.dtype(dtype)} {wanted}"
        )
    return table


def _chunks(passages: Sequence[Found]) -> Iterator[Sequence[Found]]:
    for start in range(0, len(passages), _CHUNK):
        yield passages[start : start + _CHUNK]
