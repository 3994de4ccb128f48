"""Vectors from files: .npy, .fvecs, Parquet columns and HDF5 datasets, a chunk at a time.

Rule: shape, number and type are known before the first row is read, and memory holds one chunk.
Must not know what becomes of the vectors.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from shoal.errors import ConfigError, CorpusError

Rows = npt.NDArray[np.floating[Any]]

TAKES = "FILE.npy, FILE.fvecs, FILE.parquet[:column] or FILE.hdf5[:dataset]"
CHUNK_ROWS = 8_192
_FLOATS = (np.float16, np.float32, np.float64)
_HDF5_DEFAULT = "train"
"""Where ann-benchmarks' files keep the vectors that are searched."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VectorFile:
    """An opened file of `n_rows` vectors of `dim`; `chunks()` reads them once, in order.

    Chunks are float16, float32 or float64, (n, dim), of at most CHUNK_ROWS rows. `origin` names the
    file as it is now, by path, part, size and time of change, as make does.
    """

    where: str
    n_rows: int
    dim: int
    chunks: Callable[[], Iterator[Rows]]
    origin: str = ""


def open_vector_file(source: str) -> VectorFile:
    """Open `FILE` or `FILE:part`, whose part is a Parquet column or an HDF5 dataset.

    Raises:
        CorpusError: not there, not of its kind, or not a table of 16, 32 or 64-bit floats.
        ConfigError: HDF5 without h5py.
    """
    path, part = _split(source)
    kind = path.suffix.lower()
    reader = _READERS.get(kind)
    if reader is None:
        raise CorpusError(f"{path}: unknown kind of vectors; --vectors takes {TAKES}")
    if part and kind in {".npy", ".fvecs"}:
        raise CorpusError(f"{source}: a {kind} file has no parts; leave {part!r} out")
    if not path.is_file():
        raise CorpusError(f"{path}: no such file; --vectors takes {TAKES}")
    try:
        found = reader(path, part)
    except (OSError, pa.ArrowException) as error:
        raise CorpusError(f"{path}: can't be read as {kind}: {error}") from error
    if not found.n_rows or not found.dim:
        raise CorpusError(f"{found.where}: holds no vectors")
    state = path.stat()
    return replace(found, origin=f"{path.resolve()}:{part} {state.st_size} {state.st_mtime_ns}")


def _split(source: str) -> tuple[Path, str]:
    """File and part: `x.hdf5:test` is `x.hdf5` and `test`, unless such a file exists."""
    name, colon, part = source.rpartition(":")
    if colon and Path(name).suffix.lower() in _READERS and not Path(source).exists():
        return Path(name), part
    return Path(source), ""


def _open_npy(path: Path, _part: str) -> VectorFile:
    try:
        matrix = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise CorpusError(f"{path}: can't be read as .npy: {error}") from error
    return _of_matrix(str(path), matrix)


def _open_fvecs(path: Path, _part: str) -> VectorFile:
    n_bytes = path.stat().st_size
    if n_bytes < 4:
        raise CorpusError(f"{path}: holds no vectors")
    dim = int(np.fromfile(path, dtype="<i4", count=1)[0])
    if dim < 1 or n_bytes % (4 * (dim + 1)):
        raise CorpusError(
            f"{path}: {n_bytes} bytes are no whole number of vectors of {dim} dimensions, each its "
            "dimension (int32) and its float32 values; it is cut short, or no .fvecs"
        )
    table = np.memmap(path, dtype="<f4", mode="r").reshape(-1, dim + 1)

    def chunks() -> Iterator[Rows]:
        for start in range(0, len(table), CHUNK_ROWS):
            rows = table[start : start + CHUNK_ROWS]
            odd = np.flatnonzero(rows.view("<i4")[:, 0] != dim)
            if odd.size:
                raise CorpusError(
                    f"{path}: row {start + odd[0]} does not have {dim} dimensions, as row 0 has"
                )
            yield rows[:, 1:]

    return VectorFile(where=str(path), n_rows=len(table), dim=dim, chunks=chunks)


def _open_hdf5(path: Path, part: str) -> VectorFile:
    try:
        import h5py  # noqa: PLC0415 -- needed for this one kind of file, and no dependency else
    except ModuleNotFoundError:
        raise ConfigError(
            f"{path}: HDF5 needs h5py: pip install shoal[hdf5], or save the vectors as .npy"
        ) from None
    file = h5py.File(path, "r")  # open until the process ends: its dataset is read later
    names = sorted(name for name, value in file.items() if isinstance(value, h5py.Dataset))
    name = part or (_HDF5_DEFAULT if _HDF5_DEFAULT in names or len(names) != 1 else names[0])
    if name not in file or not isinstance(file[name], h5py.Dataset):
        raise CorpusError(f"{path}: no dataset {name!r}; it holds {', '.join(names) or 'none'}")
    return _of_matrix(f"{path}:{name}", file[name])


def _of_matrix(where: str, matrix: Any) -> VectorFile:
    """Whatever has shape, dtype and slices: a mapped array, an HDF5 dataset."""
    if matrix.ndim != 2:
        raise CorpusError(
            f"{where}: has shape {matrix.shape}; vectors are the rows of a table, (n, dim)"
        )
    if matrix.dtype.newbyteorder("=") not in _FLOATS:
        raise CorpusError(f"{where}: holds {matrix.dtype}; float16, float32 or float64 are read")

    def chunks() -> Iterator[Rows]:
        for start in range(0, len(matrix), CHUNK_ROWS):
            yield np.asarray(matrix[start : start + CHUNK_ROWS])

    return VectorFile(where=where, n_rows=matrix.shape[0], dim=matrix.shape[1], chunks=chunks)


def _open_parquet(path: Path, part: str) -> VectorFile:
    file = pq.ParquetFile(path)
    schema = file.schema_arrow
    columns = [name for name in schema.names if is_float_list(schema.field(name).type)]
    if part and part not in columns:
        raise CorpusError(
            f"{path}: no column {part!r} of float lists; it has {', '.join(columns) or 'none'}"
        )
    if not part and len(columns) != 1:
        raise CorpusError(
            f"{path}: {len(columns)} columns of float lists ({', '.join(columns) or 'none'}); "
            f"name one: --vectors {path}:COLUMN"
        )
    column = part or columns[0]
    where = f"{path}:{column}"
    dim = _first_length(file, column)

    def chunks() -> Iterator[Rows]:
        start = 0
        for batch in file.iter_batches(CHUNK_ROWS, columns=[column]):
            yield _list_rows(where, batch.column(0), dim, start)
            start += batch.num_rows

    return VectorFile(where=where, n_rows=file.metadata.num_rows, dim=dim, chunks=chunks)


def is_float_list(kind: pa.DataType) -> bool:
    """Whether a column of this type holds vectors."""
    is_list = (
        pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    )
    return bool(is_list and pa.types.is_floating(kind.value_type))


def _first_length(file: pq.ParquetFile, column: str) -> int:
    for batch in file.iter_batches(1, columns=[column]):
        first = batch.column(0)[0]
        return len(first) if first.is_valid else 0
    return 0


def _list_rows(where: str, lists: pa.Array, dim: int, start: int) -> Rows:
    lengths = np.asarray(pc.list_value_length(lists).fill_null(-1))
    odd = np.flatnonzero(lengths != dim)
    if odd.size:
        what = "is null" if lengths[odd[0]] < 0 else f"has {lengths[odd[0]]} dimensions"
        raise CorpusError(f"{where}: row {start + odd[0]} {what}; row 0 has {dim}")
    values = lists.flatten()
    if values.null_count:
        row = int(np.flatnonzero(np.asarray(values.is_null()))[0]) // dim
        raise CorpusError(f"{where}: row {start + row} holds a null")
    return np.asarray(values.to_numpy(zero_copy_only=False)).reshape(-1, dim)


_READERS: dict[str, Callable[[Path, str], VectorFile]] = {
    ".npy": _open_npy,
    ".fvecs": _open_fvecs,
    ".parquet": _open_parquet,
    ".hdf5": _open_hdf5,
    ".h5": _open_hdf5,
}
