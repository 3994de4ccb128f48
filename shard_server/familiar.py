"""Which of faiss's index types a segment may hold: those that recipes make, and no other.

Rule: faiss reads some hundred types, many of which carry pointers into rows of their own (graphs,
id maps, nested refinements) that no check of ours covers. Knows faiss's classes, no files.
"""

from typing import Any

import faiss

_CODES = (
    faiss.IndexScalarQuantizer,
    faiss.IndexPQ,
    faiss.IndexPQFastScan,
    faiss.IndexIVFFlat,
    faiss.IndexIVFScalarQuantizer,
    faiss.IndexIVFPQ,
    faiss.IndexIVFPQFastScan,
)
_QUANTIZERS = (faiss.IndexFlat, faiss.IndexFlatIP, faiss.IndexFlatL2)
_faiss: Any = faiss  # whose stubs lack a class
_LISTS = (faiss.ArrayInvertedLists, _faiss.BlockInvertedLists)
_TRANSFORMS = (faiss.LinearTransform, faiss.OPQMatrix, faiss.PCAMatrix)


def strange_part(codes: Any, transform: Any = None) -> str:
    """The name of the first part that no recipe makes; empty where all are familiar.

    Args:
        codes: the faiss index that holds the codes, without its transform.
        transform: the transform in front, None without one.
    """
    if transform is not None and type(transform) not in _TRANSFORMS:
        return type(transform).__name__
    if type(codes) not in _CODES:
        return type(codes).__name__
    strange = _strange_lists(codes) if isinstance(codes, faiss.IndexIVF) else ""
    return strange or _misfit(codes)


def _strange_lists(ivf: Any) -> str:
    quantizer: Any = faiss.downcast_index(ivf.quantizer)
    if type(quantizer) not in _QUANTIZERS:
        return f"{type(quantizer).__name__} as quantizer"
    lists: Any = faiss.downcast_InvertedLists(ivf.invlists)
    if type(lists) not in _LISTS:
        return type(lists).__name__
    found = (quantizer.d, quantizer.ntotal, lists.nlist, quantizer.codes.size())
    if found != (ivf.d, ivf.nlist, ivf.nlist, 4 * ivf.d * ivf.nlist):
        return f"{type(ivf).__name__} with the quantizer or lists {found} of another"
    return ""


def _misfit(codes: Any) -> str:
    """Tables and codes whose sizes are not those of the header: searches trust the header."""
    name = type(codes).__name__
    product = getattr(codes, "pq", None)
    if product is not None:
        n_entries = product.M * product.ksub * product.dsub
        if product.d != codes.d or product.centroids.size() != n_entries:
            return f"{name} with a codebook of {product.centroids.size()} numbers"
        if product.code_size != codes.code_size:
            return f"{name} with {codes.code_size} bytes a code, its codebook {product.code_size}"
    if hasattr(codes, "codes") and not isinstance(codes, faiss.IndexIVF):
        n_rows = codes.ntotal
        if isinstance(codes, faiss.IndexPQFastScan):
            n_rows = -(-n_rows // codes.bbs) * codes.bbs  # in blocks, the last one filled up
        if codes.codes.size() != n_rows * _row_bytes(codes):
            return f"{name} with {codes.codes.size()} bytes of codes for {codes.ntotal} rows"
    return ""


def _row_bytes(codes: Any) -> int:
    return int(codes.M2 // 2 if isinstance(codes, faiss.IndexPQFastScan) else codes.code_size)
