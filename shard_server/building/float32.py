"""The encoder's own float32, kept beside an index: what rounding, codes and lists are measured by.

Rule: of a build's or an addition's passages all or none; passages that the index cuts are encoded a
second time as a whole, on this machine. No search reads any of it.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from shard_server.building.bring import GivenVectors
from shard_server.building.chunk_file import open_float32
from shard_server.building.encode import encode_corpus, vectors_from
from shard_server.building.executor import HERE, Executor
from shard_server.building.passage import Passage
from shard_server.building.progress import silent
from shard_server.building.stage import PassageEncode, StagedCorpus, stage_corpus
from shard_server.building.staging import Output, Staging
from shard_server.building.workspace import Workspace
from shoal.errors import ConfigError
from shoal.formats.manifest import Float32Files

CUT_FILE, ROWS_FILE, WHOLE_FILE = "cut.npy", "whole_rows.npy", "whole.npy"
_BLOCK_ROWS = 8_192
Cuts = Callable[[Sequence[str], Sequence[str]], npt.NDArray[np.bool_]]


class WholeTexts(Protocol):
    """What an encoder cuts, and the same model reading on."""

    def cuts(self, titles: Sequence[str], texts: Sequence[str]) -> npt.NDArray[np.bool_]:
        """Which passages are longer than the encoder reads, (n,)."""

    def open(self) -> PassageEncode:
        """An encoder that cuts only where the network ends; float32."""


def check_keepable(encode: PassageEncode) -> None:
    """ConfigError where nothing is encoded, or nobody knows by what."""
    if isinstance(encode, GivenVectors) or encode.contract is None:
        raise ConfigError(
            "--keep-float32 keeps what the encoder makes of a --corpus; vectors that were given "
            "are not encoded"
        )


def float32_bytes(n_passages: int, dim: int, whole: WholeTexts | None) -> int:
    """Bytes on the disk while a build keeps float32, as it is encoded and among the index's files;
    0 without. Passages that are cut come on top: how many is not known before they are read.
    """
    return 2 * 4 * dim * n_passages if whole is not None else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoded:
    """The corpus's vectors: float16 rows of `dim` at `path`, and what they depend on; `float32` is
    what `adopt_float32` takes into the index, None where it was not asked for.
    """

    path: Path
    dim: int
    origin: Mapping[str, Any]
    float32: Output | None


def encode_keeping(
    staged: StagedCorpus,
    staging: Staging,
    encode: PassageEncode,
    whole: WholeTexts | None,
    *,
    chunk_size: int,
    executor: Executor = HERE,
) -> Encoded:
    """Encode what is not encoded yet, and with `whole` keep it unrounded.

    Raises:
        ConfigError: as `encode_corpus`.
    """
    keeps = whole is not None
    path = encode_corpus(
        staged, staging, encode, chunk_size=chunk_size, executor=executor, keep_float32=keeps
    )
    origin = vectors_from(path, staged, encode, chunk_size)
    if whole is None:
        return Encoded(path=path, dim=encode.dim, origin=origin, float32=None)
    write = partial(_write, path, staged, staging, whole, encode.dim, chunk_size)
    output, was_there = staging.make("float32", {"vectors": origin}, write)
    if was_there:
        staging.progress("kept float32", staged.n_passages, staged.n_passages)
    return Encoded(path=path, dim=encode.dim, origin=origin, float32=output)


def adopt_float32(
    workspace: Workspace, output: Output | None, n_rows: int
) -> tuple[Float32Files, ...]:
    """The output's files among the index's; none where there is no output."""
    if output is None:
        return ()
    cut = workspace.publish(output, CUT_FILE)
    if WHOLE_FILE not in output.files:
        return (Float32Files(n_rows=n_rows, cut=cut),)
    rows, whole = (workspace.publish(output, name) for name in (ROWS_FILE, WHOLE_FILE))
    return (Float32Files(n_rows=n_rows, cut=cut, whole_rows=rows, whole=whole),)


def _write(
    path: Path,
    staged: StagedCorpus,
    staging: Staging,
    whole: WholeTexts,
    dim: int,
    chunk_size: int,
    folder: Path,
) -> None:
    _write_npy(folder / CUT_FILE, open_float32(path, dim))
    rows = _cut_rows(staged, staging, whole.cuts)
    if not rows.size:
        return
    np.save(folder / ROWS_FILE, rows)

    def show(stage: str, done: int, total: int | None) -> None:
        staging.progress(stage.replace("encode", "whole"), done, total)

    renamed = replace(staging, progress=show)
    # a corpus of its own: its chunks are kept, and gone on with, like the other's
    long = stage_corpus(_passages(staged, rows), staging.folder / "whole.arrow", silent)
    encode = whole.open()
    read_on = encode_corpus(long, renamed, encode, chunk_size=chunk_size, keep_float32=True)
    _write_npy(folder / WHOLE_FILE, open_float32(read_on, encode.dim))


def _cut_rows(staged: StagedCorpus, staging: Staging, cuts: Cuts) -> npt.NDArray[np.int64]:
    found, start = [], 0
    for batch in staged.batches():
        titles, texts = (batch.column(name).to_pylist() for name in ("title", "text"))
        found.append(start + np.flatnonzero(cuts(titles, texts)))
        start += batch.num_rows
        staging.progress("cut texts", start, staged.n_passages)
    return np.concatenate(found).astype(np.int64)


def _passages(staged: StagedCorpus, rows: npt.NDArray[np.int64]) -> Iterator[Passage]:
    start = 0
    for batch in staged.batches():
        end = start + batch.num_rows
        taken = batch.take(pa.array(rows[(rows >= start) & (rows < end)] - start))
        columns = (taken.column(name).to_pylist() for name in ("id", "title", "text", "where"))
        for passage_id, title, text, where in zip(*columns, strict=True):
            yield Passage(id=passage_id, title=title, text=text, where=where)
        start = end


def _write_npy(path: Path, rows: npt.NDArray[np.float32]) -> None:
    """A block at a time: the rows may be more than memory holds."""
    table = np.lib.format.open_memmap(path, mode="w+", dtype="<f4", shape=rows.shape)
    # written through a map, a full disk would end the process: take the room now
    with path.open("r+b") as file:
        os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    for start in range(0, len(rows), _BLOCK_ROWS):
        table[start : start + _BLOCK_ROWS] = rows[start : start + _BLOCK_ROWS]
    table.flush()
