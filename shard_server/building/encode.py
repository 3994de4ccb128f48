"""Encode the staged corpus, chunk by chunk, into a file that a killed build takes up again.

Rule: only chunks that are not whole are encoded. The vectors of another corpus or encoder are never
taken up.
"""

import hashlib
import shutil
from pathlib import Path
from typing import Any

from shard_server.building.bring import GivenVectors
from shard_server.building.chunk_file import ChunkFile, plan_chunks
from shard_server.building.executor import HERE, Executor
from shard_server.building.stage import PassageEncode, StagedCorpus
from shard_server.building.staging import SUMS_FILE, Staging


def encode_corpus(
    staged: StagedCorpus,
    staging: Staging,
    encode: PassageEncode,
    *,
    chunk_size: int,
    executor: Executor = HERE,
    keep_float32: bool = False,
) -> Path:
    """Encode what is not encoded yet; returns the file of raw float16 rows in ingestion order.

    With `keep_float32` the encoder's own lie beside them, for `chunk_file.open_float32`.

    Raises:
        ConfigError: the encoder answered with the wrong shape or with values out of range.
    """
    folder = _folder(staged, staging, encode, chunk_size, keep_float32=keep_float32)
    chunks = plan_chunks((batch.num_rows for batch in staged.batches()), chunk_size)
    with ChunkFile(folder, encode.dim, keep_float32=keep_float32) as file:
        left = file.unfinished(chunks)
        n_done = staged.n_passages - sum(chunk.n_rows for chunk in left)
        if n_done:
            staging.progress("kept encode", n_done, n_done)
        staging.progress("encode", n_done, staged.n_passages)
        if left:
            done = executor.encode(staged.path, left, encode, keep_float32=keep_float32)
            for chunk, rows in done:
                file.put(chunk, rows)
                n_done += chunk.n_rows
                staging.progress("encode", n_done, staged.n_passages)
    return file.path


def inputs_of(staged: StagedCorpus, encode: PassageEncode, chunk_size: int) -> dict[str, Any]:
    """All that the vectors depend on; `origin` is empty where that can't be told."""
    origin = ""
    if isinstance(encode, GivenVectors):
        origin = encode.origin
    elif encode.contract is not None:
        origin = f"encoder {encode.contract.passage.fingerprint}"
    return {
        "texts": staged.text_digest,
        "n_passages": staged.n_passages,
        "origin": origin,
        "dim": encode.dim,
        "chunk_size": chunk_size,
    }


def kept_bytes(
    staged: StagedCorpus,
    staging: Staging,
    encode: PassageEncode,
    chunk_size: int,
    *,
    keep_float32: bool = False,
) -> int:
    """Bytes in `staging` that this build need not write again.

    Its own vectors, and with them what was made of them; another recipe or number of shards leaves
    some of that unused. Where there are none, nothing there fits this corpus and encoder.
    """
    inputs = inputs_of(staged, encode, chunk_size) | _unrounded(keep_float32=keep_float32)
    own = staging.stream_folder(_stage(encode), inputs)
    if not inputs["origin"] or not own.exists():
        return 0
    return staging.n_bytes(but={staged.path, *staging.streams()} - {own})


def vectors_from(
    path: Path, staged: StagedCorpus, encode: PassageEncode, chunk_size: int
) -> dict[str, Any]:
    """What the vectors at `path` are, for the stages that use them.

    As `inputs_of`; where no origin can be told, the chunks' sums are it: a stage that was made of
    another nameless encoder's vectors, and outlived a kill, must not be taken for this one's.
    """
    inputs = inputs_of(staged, encode, chunk_size)
    if not inputs["origin"]:
        sums = (path.parent / SUMS_FILE).read_bytes()
        inputs["origin"] = f"sums {hashlib.sha256(sums).hexdigest()}"
    return inputs


def _folder(
    staged: StagedCorpus,
    staging: Staging,
    encode: PassageEncode,
    chunk_size: int,
    *,
    keep_float32: bool,
) -> Path:
    inputs = inputs_of(staged, encode, chunk_size) | _unrounded(keep_float32=keep_float32)
    if inputs["origin"]:
        return staging.stream(_stage(encode), inputs)
    # an encoder that doesn't say who it is may be another one next time
    folder = staging.folder / "once"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return folder


def _unrounded(*, keep_float32: bool) -> dict[str, Any]:
    """What sets a file that has float32 beside it apart: rounded chunks don't fit it."""
    return {"float32": True} if keep_float32 else {}


def _stage(encode: PassageEncode) -> str:
    return "copy" if isinstance(encode, GivenVectors) else "encode"
