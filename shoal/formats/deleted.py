"""deleted.bits: which rows of a segment were superseded; a search doesn't find them.

Bit i % 8 (from the least) of byte i // 8 is row i's, 1 where it is deleted; bits beyond the rows
are 0. Must not know why a row was deleted.
"""

from pathlib import Path

import numpy as np
import numpy.typing as npt

from shoal.errors import IndexFormatError

Rows = npt.NDArray[np.bool_]


def write_deleted(path: Path, deleted: Rows) -> None:
    """Write a segment's bitmap; `deleted` is bool (n_rows,)."""
    path.write_bytes(np.packbits(deleted, bitorder="little").tobytes())


def read_deleted(path: Path, *, n_rows: int, n_live: int) -> Rows:
    """The rows that are deleted: bool (n_rows,).

    Raises:
        IndexFormatError: another length, or another number of rows than the manifest says.
    """
    bits = np.frombuffer(path.read_bytes(), dtype=np.uint8)
    if len(bits) != (n_rows + 7) // 8:
        raise IndexFormatError(f"{path}: {len(bits)} bytes can't be the bitmap of {n_rows} rows")
    all_bits = np.unpackbits(bits, bitorder="little")
    deleted = all_bits[:n_rows].astype(np.bool_)
    if all_bits[n_rows:].any() or n_rows - int(deleted.sum()) != n_live:
        raise IndexFormatError(
            f"{path}: {int(all_bits.sum())} of {n_rows} rows are deleted, the manifest says "
            f"{n_rows - n_live}"
        )
    return deleted
