"""passages.arrow and ids.arrow give back what was written, by row and by id."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shoal.errors import IndexFormatError
from shoal.formats import passages
from shoal.formats.ids import IdFile, hash64, hash_ids, write_ids
from shoal.formats.passages import PassageFile, PassageWriter, TextColumn

COLUMNS = {"year": "int64", "title": "string", "tags": "string_list", "score": "double"}


def write(path: Path, records: list[tuple[str, str, str, dict]], *, per_batch: int = 100) -> None:
    with PassageWriter(path, COLUMNS) as writer:
        for start in range(0, len(records), per_batch):
            part = records[start : start + per_batch]
            columns = [
                list(range(10 + start, 10 + start + len(part))),
                *([record[i] for record in part] for i in range(3)),
                *([record[3].get(name) for record in part] for name in COLUMNS),
            ]
            arrays = [pa.array(c, f.type) for c, f in zip(columns, writer.schema, strict=True)]
            writer.write(pa.record_batch(arrays, schema=writer.schema))


def texts(column: TextColumn) -> list[str]:
    edges = column.offsets.tolist()
    return [column.data[a:b].decode() for a, b in pairwise(edges)]


@given(
    st.lists(
        st.tuples(st.text(max_size=5), st.text(max_size=5), st.text(max_size=50)), max_size=60
    ),
    st.integers(1, 20),
    st.data(),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
def test_rows_come_back_in_the_order_asked(
    tmp_path: Path, records: list[tuple[str, str, str]], batch_rows: int, data: st.DataObject
) -> None:
    """Whatever the batches, any rows in any order with repeats give those rows' texts."""
    path = tmp_path / "passages.arrow"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(passages, "MAX_BATCH_ROWS", batch_rows)
        write(path, [(*record, {}) for record in records], per_batch=7)
    file = PassageFile.open(path)
    assert file.n_rows == len(records)
    assert file.ordinals.tolist() == list(range(10, 10 + len(records)))
    wanted = data.draw(st.lists(st.integers(0, len(records) - 1))) if records else []
    found = file.take(np.array(wanted, dtype=np.uint32), ("id", "title", "text"))
    for number, name in enumerate(("id", "title", "text")):
        assert texts(found[name]) == [records[row][number] for row in wanted]


def test_metadata_is_typed_and_lacks_what_was_absent(tmp_path: Path) -> None:
    """A column named like one of ours is no trouble, and null means absent."""
    given_metadata = [
        {"year": 1999, "title": "inner", "tags": ["a", "b"], "score": 0.5},
        {},
        {"tags": [], "year": -(1 << 63)},
    ]
    write(tmp_path / "p", [(f"{i}", "t", "x", m) for i, m in enumerate(given_metadata)])
    file = PassageFile.open(tmp_path / "p")
    assert file.metadata_names == tuple(COLUMNS)
    assert file.metadata(np.array([2, 0, 1])) == [given_metadata[row] for row in (2, 0, 1)]
    assert texts(file.take(np.array([0]), ["title"])["title"]) == ["t"]


@pytest.mark.parametrize("row", [-1, 3])
def test_rows_outside_are_refused(tmp_path: Path, row: int) -> None:
    """No neighbour's text for a row that isn't there."""
    write(tmp_path / "p", [("a", "", "x", {})] * 3)
    with pytest.raises(IndexError, match=r"outside 0\.\.2"):
        PassageFile.open(tmp_path / "p").take(np.array([row]), ["text"])


def test_batches_are_bounded(tmp_path: Path) -> None:
    """However it is written, no record batch exceeds 8,192 rows."""
    write(tmp_path / "p", [("a", "", "x", {})] * 20_000, per_batch=20_000)
    with pa.memory_map(str(tmp_path / "p")) as source:
        reader = pa.ipc.open_file(source)
        sizes = [reader.get_batch(i).num_rows for i in range(reader.num_record_batches)]
    assert sizes == [8_192, 8_192, 3_616]


def test_other_files_are_refused(tmp_path: Path) -> None:
    """Neither noise nor an Arrow file of another kind is a passages file."""
    (tmp_path / "noise").write_bytes(b"noise" * 100)
    write_ids(tmp_path / "ids", hash_ids(["a"]))
    for name in ("noise", "ids", "absent"):
        with pytest.raises(IndexFormatError, match=name):
            PassageFile.open(tmp_path / name)
    write(tmp_path / "p", [("a", "", "x", {})])
    for name in ("noise", "p", "absent"):
        with pytest.raises(IndexFormatError, match=name):
            IdFile.open(tmp_path / name)


@given(st.lists(st.text(max_size=3), max_size=50), st.text(max_size=3))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
def test_ids_find_their_rows(tmp_path: Path, ids: list[str], other: str) -> None:
    """Every id leads to exactly the rows that have it."""
    write_ids(tmp_path / "ids.arrow", hash_ids(ids))
    file = IdFile.open(tmp_path / "ids.arrow")
    assert file.n_rows == len(ids)
    for wanted in {*ids, other}:
        assert file.find(wanted) == [row for row, found in enumerate(ids) if found == wanted]


def test_the_hash_never_changes() -> None:
    """Indexes of earlier releases depend on it: blake2b-64, little-endian, of the UTF-8."""
    # `printf '' | b2sum -l 64` says e4a6a0577479b2b4
    assert hash64("") == 0xB4B2797457A0A6E4
    assert hash64("wn-n-00001740") == 0x28F2128CED71A141
    assert hash64("é") == 0x2F19F3EF8BBF1ACB
