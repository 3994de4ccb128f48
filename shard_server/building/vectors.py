"""vectors.faiss written as a stream: a faiss IndexScalarQuantizer of float16 rows.

Rule: the bytes are those that faiss itself would write, without holding them in memory: faiss's own
header for the empty index, with the count and the code size filled in, then the rows.
"""

from pathlib import Path
from types import TracebackType
from typing import Any, Self

import faiss
import numpy as np
import numpy.typing as npt

from shard_server.faiss_files import faiss_metric, read_familiar
from shoal.errors import IndexFormatError, StorageError
from shoal.formats.files import guard_storage
from shoal.formats.manifest import Metric

_COUNT_AT = 8
"""Where the header has ntotal (int64); its last 8 bytes are the size of the codes (uint64)."""


class VectorWriter:
    """Streams float16 rows into a vectors.faiss."""

    def __init__(self, path: Path, dim: int, metric: Metric) -> None:
        self._dim = dim
        self._n_rows = 0
        self._header = _empty_header(dim, metric)
        self._file = path.open("wb")
        self._file.write(self._header)

    def write(self, rows: npt.NDArray[np.float16]) -> None:
        """Append float16 rows of shape (n, dim)."""
        self._file.write(rows.astype("<f2", copy=False).tobytes())
        self._n_rows += len(rows)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._file as file:
            if error is None:
                file.seek(_COUNT_AT)
                file.write(self._n_rows.to_bytes(8, "little"))
                file.seek(len(self._header) - 8)
                file.write((self._n_rows * self._dim * 2).to_bytes(8, "little"))


def read_stored(path: Path, dim: int) -> npt.NDArray[np.float16]:
    """The rows of a vectors.faiss, mapped: float16 (n, dim)."""
    header_bytes = len(_empty_header(dim, "inner_product"))
    if path.stat().st_size == header_bytes:
        return np.empty((0, dim), dtype=np.float16)
    return np.memmap(path, dtype="<f2", mode="r", offset=header_bytes).reshape(-1, dim)


def write_index(index: faiss.Index, path: Path) -> None:
    """Write a faiss index; the disk's refusals are StorageError.

    faiss's own file writer only prints what closing the file says, so the file is ours.
    """
    with guard_storage(path), path.open("wb") as file:
        writer = faiss.PyCallbackIOWriter(file.write)  # type: ignore[attr-defined]  # not in its stubs
        try:
            faiss.write_index(index, writer)
        except RuntimeError as error:
            raise StorageError(f"{path}: can't be written; is the disk full?") from error


def read_trained(path: Path, *, n_lists: int, dim: int) -> Any:
    """The trained, empty index that segments are made from; its bytes were checked."""
    trained = read_familiar(path, mapped=False, n_lists=n_lists, dim=dim)
    if not trained.is_trained or trained.ntotal or trained.d != dim:
        raise IndexFormatError(f"{path}: not a trained, empty index of {dim} dimensions")
    return trained


def _empty_header(dim: int, metric: Metric) -> bytes:
    empty = faiss.IndexScalarQuantizer(dim, faiss.ScalarQuantizer.QT_fp16, faiss_metric(metric))
    header = bytes(faiss.serialize_index(empty))
    if header[_COUNT_AT : _COUNT_AT + 8] != bytes(8) or header[-8:] != bytes(8):
        raise AssertionError("this faiss writes scalar quantizers otherwise than format 1")
    return header
