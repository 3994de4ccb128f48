"""One segment of a shard, read and checked: its vectors, its compressed index, its passages.

Rule: the manifest's size and SHA-256 hold before faiss or arrow reads a byte, and what faiss read
is measured against the manifest before it is searched. This module must not know devices.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt

from shard_server.faiss_files import faiss_metric, read_faiss, refuse_strange
from shard_server.hits import Ordinals
from shard_server.rotation import take_apart
from shoal.errors import IndexFormatError
from shoal.formats.deleted import read_deleted
from shoal.formats.files import stay_inside
from shoal.formats.manifest import FileEntry, Manifest, Segment
from shoal.formats.passages import PassageFile
from shoal.formats.versions import check_file

CheckFile = Callable[[Path, FileEntry], Path]


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentData:
    """A segment in memory: `index` is None where the stored vectors are the whole index (Flat).

    `ordinals` ascends: rows stand in the order of ingestion. `deleted` is bool (n_rows,), None
    where no row is.
    """

    n_rows: int
    n_live: int
    deleted: npt.NDArray[np.bool_] | None
    index: Any
    vectors: Any
    passages: PassageFile
    ordinals: Ordinals


def read_segment(
    index_dir: Path,
    manifest: Manifest,
    segment: Segment,
    *,
    check: CheckFile = check_file,
    opening: Callable[[Path], None] = lambda _path: None,
) -> SegmentData:
    """Check and open one segment's files; the vectors and passages stay on the disk, mapped.

    Args:
        index_dir: the index's folder.
        manifest: its manifest.
        segment: which segment.
        check: proves a file and returns its path; `check_place` skips the hash.
        opening: told of each file before it is opened.

    Raises:
        IndexFormatError: naming the file that does not verify, can't be read or does not fit.
    """
    files = segment.files
    paths = {entry: check(index_dir, entry) for entry in files.entries()}
    opening(paths[files.vectors])
    sizes = {"n_lists": manifest.n_lists, "dim": manifest.dim}
    vectors = read_faiss(paths[files.vectors], mapped=True, **sizes)
    _check_vectors(paths[files.vectors], vectors, manifest, segment)
    index = None
    if files.index is not None:
        opening(paths[files.index])
        index = read_faiss(paths[files.index], mapped=False, **sizes)
        _check_index(paths[files.index], index, manifest, segment)
    opening(paths[files.passages])
    passages = PassageFile.open(paths[files.passages])
    ordinals = np.ascontiguousarray(passages.ordinals, dtype=np.int64)
    _check_ordinals(paths[files.passages], ordinals, manifest, segment)
    deleted = None
    if files.deleted is not None:
        opening(paths[files.deleted])
        deleted = read_deleted(paths[files.deleted], n_rows=segment.n_rows, n_live=segment.n_live)
    return SegmentData(
        n_rows=segment.n_rows,
        n_live=segment.n_live,
        deleted=deleted,
        index=index,
        vectors=vectors,
        passages=passages,
        ordinals=ordinals,
    )


def check_place(index_dir: Path, entry: FileEntry) -> Path:
    """As `check_file`, without the hash: the place and the size only."""
    path = stay_inside(index_dir, index_dir / entry.path)
    try:
        n_bytes = path.stat().st_size
    except OSError as failure:
        raise IndexFormatError(f"{path}: can't be read: {failure.strerror}") from failure
    if n_bytes != entry.n_bytes:
        raise IndexFormatError(f"{path}: {n_bytes} bytes, the manifest says {entry.n_bytes}")
    return path


def _check_vectors(path: Path, vectors: Any, manifest: Manifest, segment: Segment) -> None:
    if (
        not isinstance(vectors, faiss.IndexScalarQuantizer)
        or vectors.sq.qtype != faiss.ScalarQuantizer.QT_fp16
    ):
        raise IndexFormatError(f"{path}: not float16 vectors, but {type(vectors).__name__}")
    _check_shape(path, vectors, manifest, segment)
    refuse_strange(path, vectors)


def _check_index(path: Path, index: Any, manifest: Manifest, segment: Segment) -> None:
    _check_shape(path, index, manifest, segment)
    if not index.is_trained:
        raise IndexFormatError(f"{path}: the index is not trained")
    if isinstance(index, faiss.IndexPreTransform):
        _check_transform(path, index)
    else:
        refuse_strange(path, index)
    ivf = faiss.try_extract_index_ivf(index)
    n_lists = 0 if ivf is None else int(ivf.nlist)
    if n_lists != manifest.n_lists:
        raise IndexFormatError(f"{path}: {n_lists} lists, the manifest says {manifest.n_lists}")
    if ivf is not None:
        _check_rows(path, ivf.invlists, segment.n_rows)


def _check_transform(path: Path, index: Any) -> None:
    """What the engine takes apart and searches by itself must fit together."""
    try:
        transform, codes = take_apart(index)
    except ValueError as fault:
        raise IndexFormatError(f"{path}: {fault}") from fault
    refuse_strange(path, codes, transform)
    found = (transform.d_in, transform.d_out, codes.ntotal)
    wanted = (index.d, codes.d, index.ntotal)
    if found != wanted or transform.A.size() != index.d * codes.d:
        raise IndexFormatError(f"{path}: its transform {found} does not fit {wanted}")


def _check_rows(path: Path, lists: Any, n_rows: int) -> None:
    """A row beyond the vectors would have the rescoring read memory that is not ours."""
    for i in range(lists.nlist):
        size = lists.list_size(i)
        if size:
            rows = faiss.rev_swig_ptr(lists.get_ids(i), size)
            if rows.min() < 0 or rows.max() >= n_rows:
                raise IndexFormatError(f"{path}: list {i} names a row that is not there")


def _check_shape(path: Path, index: Any, manifest: Manifest, segment: Segment) -> None:
    found = (index.ntotal, index.d, index.metric_type)
    wanted = (segment.n_rows, manifest.dim, faiss_metric(manifest.metric))
    if found != wanted:
        raise IndexFormatError(
            f"{path}: rows, dimensions, metric are {found}, the manifest says {wanted}"
        )


def _check_ordinals(path: Path, ordinals: Ordinals, manifest: Manifest, segment: Segment) -> None:
    if len(ordinals) != segment.n_rows:
        raise IndexFormatError(
            f"{path}: {len(ordinals)} passages, the manifest says {segment.n_rows}"
        )
    within = not len(ordinals) or (ordinals[0] >= 0 and ordinals[-1] < manifest.next_ordinal)
    if not within or (np.diff(ordinals) <= 0).any():
        raise IndexFormatError(f"{path}: ordinals must ascend, below {manifest.next_ordinal}")
