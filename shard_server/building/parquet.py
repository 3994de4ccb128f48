"""Corpora in Parquet: columns id (or _id), title, text, and the rest as typed metadata.

Rule: one row group's slice in memory at a time; rows are counted from 1, as lines are.
"""

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from shard_server.building.passage import Passage, passage_from_record
from shard_server.building.vector_files import is_float_list
from shoal.errors import CorpusError

_BATCH_ROWS = 1_024


def read_parquet(path: Path) -> Iterator[Passage]:
    """Each row a passage; CorpusError naming file and row."""
    number = 0
    try:
        with pq.ParquetFile(path) as file:
            # a column of vectors is no metadata; --vectors reads it
            schema = file.schema_arrow
            names = [name for name in schema.names if not is_float_list(schema.field(name).type)]
            for batch in file.iter_batches(_BATCH_ROWS, columns=names):
                for row in range(batch.num_rows):
                    number += 1
                    (record,) = batch.slice(row, 1).to_pylist()
                    yield passage_from_record(record, f"{path}:{number}")
    except UnicodeDecodeError as error:
        raise CorpusError(f"{path}:{number}: not UTF-8: {error.reason}") from None
    except (OSError, pa.ArrowException) as error:
        raise CorpusError(f"{path}:{number + 1}: not readable as Parquet: {error}") from error
