"""Encoding on Ray: chunks stream through a pool of encoder actors, by Ray Data.

Rule: an actor reads its chunks from the staged corpus and answers with their vectors; it writes
nothing. The driver alone writes, so that a chunk is in the file as a whole or not at all.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import ray.data

from deploy.ray.building.cluster import this_node, worker_environment
from deploy.ray.building.failures import as_our_own
from deploy.ray.building.node_failures import naming_node
from deploy.ray.building.placement import Placement
from deploy.ray.building.shared_folder import Mark, check_mark
from shard_server.building.chunk_encode import encode_chunks
from shard_server.building.chunk_file import AnyRows, Chunk
from shard_server.building.stage import PassageEncode
from shoal.contract import EncoderContract
from shoal.errors import ConfigError, ShoalError

_RESULT = pa.schema([("number", pa.int64()), ("rows", pa.large_binary())])


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodeWork:
    """What an encoder actor needs: `load` makes its encoder, which must keep `contract`; it answers
    float16, or its own float32 with `keep_float32`.
    """

    corpus: Path
    mark: Mark
    load: Callable[[], PassageEncode]
    contract: EncoderContract | None
    dim: int
    keep_float32: bool = False

    @property
    def dtype(self) -> str:
        """Of the rows that come back."""
        return "<f4" if self.keep_float32 else "<f2"


class ChunkEncoder:
    """An actor. What fails as its encoder is loaded is told with its first chunk: Ray would say no
    more of it than that the actor died.
    """

    def __init__(self, work: EncodeWork) -> None:
        self._work = work
        self._encode: PassageEncode | ShoalError
        try:
            with naming_node(this_node):
                self._encode = load_checked(work)
        except ShoalError as error:
            self._encode = error

    def __call__(self, batch: pa.Table) -> pa.Table:
        """A table of chunks (columns as `Chunk`'s fields) as their numbers and rows."""
        if isinstance(self._encode, ShoalError):
            raise self._encode
        chunks = [Chunk(**row) for row in batch.to_pylist()]
        with naming_node(this_node):
            done = [
                {"number": chunk.number, "rows": rows.tobytes()}
                for chunk, rows in encode_chunks(
                    self._work.corpus, chunks, self._encode, keep_float32=self._work.keep_float32
                )
            ]
        return pa.Table.from_pylist(done, schema=_RESULT)


def load_checked(work: EncodeWork) -> PassageEncode:
    """The work's encoder, where its folder is seen and the model is the driver's.

    Raises:
        ConfigError: the folder, the model's fingerprint or its dimension is another.
    """
    check_mark(work.mark)
    encode = work.load()
    ours = work.contract.passage.fingerprint if work.contract else ""
    theirs = encode.contract.passage.fingerprint if encode.contract else ""
    if (ours, work.dim) != (theirs, encode.dim):
        raise ConfigError(
            f"the model here has fingerprint {theirs[:12]} and {encode.dim} dimensions, where the "
            f"build was started {ours[:12]} and {work.dim}; all nodes need the same model"
        )
    return encode


def encode_on_ray(
    work: EncodeWork, chunks: Sequence[Chunk], placement: Placement
) -> Iterator[tuple[Chunk, AnyRows]]:
    """Each of `chunks` with its vectors, (n_rows, dim) of `work.dtype`, in the order of their ends.

    Raises:
        ConfigError: as an actor's encoder raised it, naming its node.
        UnavailableError: the cluster went away.
    """
    by_number = {chunk.number: chunk for chunk in chunks}
    with as_our_own():
        for table in _results(work, chunks, placement):
            for row in table.to_pylist():
                chunk = by_number[row["number"]]
                yield chunk, np.frombuffer(row["rows"], dtype=work.dtype).reshape(-1, work.dim)


def _results(work: EncodeWork, chunks: Sequence[Chunk], placement: Placement) -> Any:
    # A block is what an actor is given, and gives back, at a time: one chunk.
    planned = ray.data.from_items(
        [asdict(chunk) for chunk in chunks], override_num_blocks=len(chunks)
    )
    encoded = planned.map_batches(
        ChunkEncoder,
        fn_constructor_args=(work,),
        compute=ray.data.ActorPoolStrategy(size=min(placement.n_encoders, len(chunks))),
        batch_size=None,
        batch_format="pyarrow",
        num_cpus=placement.cpus_each,
        num_gpus=placement.gpus_each,
        runtime_env=worker_environment(),
    )
    return encoded.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0)
