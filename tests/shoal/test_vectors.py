"""Vectors on the wire: what goes in comes out, and nothing else gets in."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from shoal import vectors
from shoal.errors import InvalidArgumentError
from shoal.v1 import vectors_pb2 as pb

FINITE = st.floats(-(2.0**49), 2.0**49, width=32)
MATRICES = hnp.arrays(
    np.float32, hnp.array_shapes(min_dims=2, max_dims=2, max_side=6), elements=FINITE
)


@given(MATRICES)
def test_matrices_survive_the_way(matrix):
    """Packed float32, packed float16 and lists of floats all come back as float32, bit for bit."""
    message = pb.Vectors.FromString(vectors.to_proto(matrix).SerializeToString())
    assert (message.n_rows, message.dim, message.dtype) == (*matrix.shape, pb.VECTOR_DTYPE_FLOAT32)
    back = vectors.from_proto(message, "v")
    assert back.dtype == np.float32
    assert back.tobytes() == matrix.tobytes()
    floats = pb.Vectors(n_rows=matrix.shape[0], dim=matrix.shape[1])
    floats.floats.values.extend(matrix.ravel().tolist())
    assert vectors.from_proto(floats, "v").tobytes() == matrix.tobytes()
    half = np.clip(matrix, -60_000, 60_000).astype(np.float16)
    message = vectors.to_proto(half)
    assert message.dtype == pb.VECTOR_DTYPE_FLOAT16
    assert len(message.packed) == half.size * 2
    assert (vectors.from_proto(message, "v") == half).all()


def test_any_layout_packs_row_by_row():
    """Transposed, strided, big-endian and float64 matrices travel as the same values."""
    matrix = np.arange(12, dtype=np.float64).reshape(3, 4)
    for same in (
        matrix,
        matrix.astype(">f4"),
        np.asfortranarray(matrix),
        matrix.repeat(2, 1)[:, ::2],
    ):
        assert (vectors.from_proto(vectors.to_proto(same), "v") == matrix).all()


BAD = {
    "nothing": pb.Vectors(),
    "no rows": pb.Vectors(dim=2),
    "no values": pb.Vectors(n_rows=1),
    "a byte short": pb.Vectors(n_rows=1, dim=2, packed=b"\0" * 7),
    "a byte over": pb.Vectors(n_rows=1, dim=2, packed=b"\0" * 9),
    "half as float": pb.Vectors(n_rows=1, dim=2, packed=b"\0" * 4),
    "float as half": pb.Vectors(n_rows=1, dim=2, dtype=2, packed=b"\0" * 8),
    "unknown dtype": pb.Vectors(n_rows=1, dim=2, dtype=3, packed=b"\0" * 8),
    "negative dtype": pb.Vectors(n_rows=1, dim=2, dtype=-1, packed=b"\0" * 8),
    "too few floats": pb.Vectors(n_rows=1, dim=2, floats=pb.FloatList(values=[1])),
    "nan": pb.Vectors(n_rows=1, dim=2, floats=pb.FloatList(values=[1, float("nan")])),
    "infinite": pb.Vectors(n_rows=1, dim=2, floats=pb.FloatList(values=[float("-inf"), 0])),
    "infinite half": pb.Vectors(n_rows=1, dim=2, dtype=2, packed=b"\x00\x7c\0\0"),
    "huge": pb.Vectors(n_rows=1, dim=2, floats=pb.FloatList(values=[1, -1.1e15])),
    "a product over 2^64": pb.Vectors(n_rows=2**32 - 1, dim=2**32 - 1, packed=b"\0" * 8),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_vectors_are_refused_by_field(name):
    """In both readers, naming the field; one row or many."""
    with pytest.raises(InvalidArgumentError) as caught:
        vectors.from_proto(BAD[name], "queries[3].vector")
    assert caught.value.field == "queries[3].vector"
    assert "queries[3].vector" in caught.value.message
    good = pb.Vectors(n_rows=1, dim=2, packed=b"\0" * 8)
    with pytest.raises(InvalidArgumentError) as caught:
        vectors.rows_from_proto([good, BAD[name]], 2, ["a", "b"])
    assert caught.value.field == "b"


def test_the_faulty_element_is_named():
    """Row and element of the first NaN."""
    matrix = np.zeros((3, 4), dtype=np.float32)
    matrix[1, 2] = np.nan
    with pytest.raises(InvalidArgumentError, match="row 1, element 2"):
        vectors.from_proto(vectors.to_proto(matrix), "v")


@given(
    st.lists(
        st.tuples(hnp.arrays(np.float32, 3, elements=FINITE), st.sampled_from("phf")), min_size=1
    )
)
def test_rows_of_every_kind_mix(rows):
    """One matrix from messages of packed, half and listed values."""
    messages = []
    for row, kind in rows:
        if kind == "f":
            messages.append(pb.Vectors(n_rows=1, dim=3, floats=pb.FloatList(values=row.tolist())))
        else:
            small = np.clip(row, -60_000, 60_000).astype(np.float16)
            messages.append(vectors.to_proto((row if kind == "p" else small)[None]))
    matrix = vectors.rows_from_proto(messages, 3, [str(i) for i in range(len(rows))])
    assert matrix.shape == (len(rows), 3)
    for message, got in zip(messages, matrix, strict=True):
        assert (vectors.from_proto(message, "v")[0] == got).all()


def test_rows_of_other_shapes_are_refused():
    """Two rows, or another dimension than the index's."""
    two = vectors.to_proto(np.zeros((2, 3), dtype=np.float32))
    with pytest.raises(InvalidArgumentError, match="2 rows"):
        vectors.rows_from_proto([two], 3, ["v"])
    with pytest.raises(InvalidArgumentError, match="3 dimensions, the index has 4"):
        vectors.rows_from_proto([vectors.to_proto(np.zeros((1, 3)))], 4, ["v"])


@pytest.mark.parametrize("value", [1e-45, -1e-40, 0.0, -0.0, 1e15])
def test_small_and_large_values_are_allowed(value):
    """Denormals, both zeros and the largest magnitude."""
    vectors.from_proto(vectors.to_proto(np.array([[value]], dtype=np.float32)), "v")
