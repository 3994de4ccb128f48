"""Vectors to and from the wire: the one module that knows their byte layout.

Knows nothing of services; callers name the field so that a refusal can point at it.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from shoal.errors import InvalidArgumentError
from shoal.v1 import vectors_pb2 as pb

Matrix = npt.NDArray[np.float32]

MAX_MAGNITUDE = 1e15
"""Of one value. Far larger than any encoder's, and small enough that no score overflows: a score of
one query that is infinite would spoil the answers of all that travel with it."""

_FLOAT32 = frozenset({pb.VECTOR_DTYPE_UNSPECIFIED, pb.VECTOR_DTYPE_FLOAT32})

_DTYPES: dict[int, np.dtype[Any]] = {
    pb.VECTOR_DTYPE_UNSPECIFIED: np.dtype("<f4"),
    pb.VECTOR_DTYPE_FLOAT32: np.dtype("<f4"),
    pb.VECTOR_DTYPE_FLOAT16: np.dtype("<f2"),
}


def to_proto(matrix: npt.NDArray[np.floating]) -> pb.Vectors:
    """Packs an (n, dim) matrix; float16 travels as FLOAT16, everything else as FLOAT32."""
    dtype = pb.VECTOR_DTYPE_FLOAT16 if matrix.dtype == np.float16 else pb.VECTOR_DTYPE_FLOAT32
    packed = np.ascontiguousarray(matrix, dtype=_DTYPES[dtype])
    return pb.Vectors(
        n_rows=packed.shape[0], dim=packed.shape[1], dtype=dtype, packed=packed.tobytes()
    )


def from_proto(message: pb.Vectors, field: str) -> Matrix:
    """Reads a message as a float32 (n_rows, dim) matrix of finite values, at most 1e15 in size.

    Raises:
        InvalidArgumentError: naming `field`, for sizes that disagree, an unknown dtype or a value
            that is NaN, infinite or larger than 1e15.
    """
    return _finite(_values(message, field), field)


def rows_from_proto(messages: Sequence[pb.Vectors], dim: int, fields: Sequence[str]) -> Matrix:
    """Reads one-row messages as one float32 (len(messages), dim) matrix.

    Args:
        messages: one row each.
        dim: values that every row must have.
        fields: where each message stands in its request, for refusals.

    Raises:
        InvalidArgumentError: naming the field, as `from_proto`, and for another number of rows
            or another dimension.
    """
    for message, field in zip(messages, fields, strict=True):
        if message.n_rows != 1:
            raise InvalidArgumentError(
                f"{field} has {message.n_rows} rows; a query is one row", field=field
            )
        if message.dim != dim:
            raise InvalidArgumentError(
                f"{field} has {message.dim} dimensions, the index has {dim}", field=field
            )
    row_bytes = dim * 4
    if all(
        m.dtype in _FLOAT32 and len(m.packed) == row_bytes for m in messages
    ):  # the usual case, with no step for each row
        matrix = np.frombuffer(b"".join([m.packed for m in messages]), dtype="<f4")
        matrix = matrix.reshape(-1, dim)
    else:
        matrix = np.vstack([_values(m, f) for m, f in zip(messages, fields, strict=True)])
    sound = _sound(matrix)
    if not sound.all():
        bad_row = np.flatnonzero(~sound.all(axis=1))[0]
        _finite(matrix[bad_row : bad_row + 1], fields[bad_row])
    return matrix


def _values(message: pb.Vectors, field: str) -> Matrix:
    n_rows, dim = message.n_rows, message.dim
    dtype = _DTYPES.get(message.dtype)
    if dtype is None:
        raise InvalidArgumentError(
            f"{field}.dtype {message.dtype} is not known; send FLOAT32 or FLOAT16", field=field
        )
    if not n_rows or not dim:
        raise InvalidArgumentError(f"{field} is empty: {n_rows} rows of {dim}", field=field)
    if message.WhichOneof("data") == "floats":
        values = np.array(message.floats.values, dtype=np.float32)
        given, wanted, unit = values.size, n_rows * dim, "values"
    else:
        packed = message.packed
        given, wanted, unit = len(packed), n_rows * dim * dtype.itemsize, "bytes"
        if given == wanted:
            values = np.frombuffer(packed, dtype=dtype).astype(np.float32, copy=False)
    if given != wanted:
        raise InvalidArgumentError(
            f"{field} has {given} {unit}; {n_rows} rows of {dim} need {wanted}", field=field
        )
    return values.reshape(n_rows, dim)


def _finite(matrix: Matrix, field: str) -> Matrix:
    sound = _sound(matrix)
    if not sound.all():
        row, column = (int(i) for i in np.argwhere(~sound)[0])
        raise InvalidArgumentError(
            f"{field} has {matrix[row, column]} at row {row}, element {column}; "
            f"values must be finite and at most {MAX_MAGNITUDE:g} in size",
            field=field,
        )
    return matrix


def _sound(matrix: Matrix) -> npt.NDArray[np.bool_]:
    return np.abs(matrix) <= MAX_MAGNITUDE  # NaN compares as False
