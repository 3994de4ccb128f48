"""A search as its protobuf request: the one place where a client's parameters meet the contract.

What the caller leaves out stays out of the message, so that the server's default holds. Values are
checked by the server, which names the field; here only what can't be put into a message is refused.
"""

from collections.abc import Sequence
from typing import Any, Literal, TypeAlias, TypedDict

import numpy as np
import numpy.typing as npt
from google.protobuf.field_mask_pb2 import FieldMask

from shoal.errors import InvalidArgumentError
from shoal.v1 import priority_pb2
from shoal.v1 import search_pb2 as pb
from shoal.vectors import to_proto

Vector: TypeAlias = npt.NDArray[np.floating[Any]] | Sequence[float]
Queries: TypeAlias = Sequence[str] | npt.NDArray[np.floating[Any]]


class SearchOptions(TypedDict, total=False):
    """How to answer. Everything is optional; None means the server's or the index's default."""

    k: int
    """Hits wanted a query, 1 to 1,000. Default 10."""
    index: str
    """The index's name; may be left out where one index is served."""
    n_probe: int | None
    """Inverted lists searched a shard, 1 to 2,048. Default: the index's own."""
    oversample: float | None
    """Candidates are max(100, k x oversample), over all shards; 0 turns rescoring off."""
    exact: bool | None
    """Search every stored vector instead of the compressed index. Default false."""
    min_coverage: float | None
    """The least share of the passages that must have been searched, 0 to 1. Default 1."""
    offset: int | None
    """Hits to skip from the best on. Default 0."""
    fields: Sequence[str] | None
    """Any of "title", "text", "metadata"; empty for ids and scores only. Default: all three."""
    score_threshold: float | None
    """Leave out hits that score lower."""
    target_recall: float | None
    """Choose n_probe and oversample for this recall, from the index's calibration."""
    priority: Literal["interactive", "bulk"] | None
    """Who goes first when there is a queue. Default interactive."""


_SCALARS = frozenset(
    ("k", "index", "n_probe", "oversample", "exact", "min_coverage", "offset", "score_threshold",
     "target_recall")
)  # fmt: skip
_PRIORITIES = {
    "interactive": priority_pb2.PRIORITY_INTERACTIVE,
    "bulk": priority_pb2.PRIORITY_BULK,
}


def one_query(query: str | None, vector: Vector | None) -> list[pb.Query]:
    """One text, or one vector of shape (dim,).

    Raises:
        InvalidArgumentError: neither or both are given, or the vector has another shape.
    """
    if (query is None) == (vector is None):
        raise InvalidArgumentError("give a query's text or vector=..., one of them", field="query")
    if query is not None:
        return [_text_query(query, "query")]
    row = _as_array(vector, "vector")
    if row.ndim != 1:
        raise InvalidArgumentError(
            f"vector has shape {row.shape}; one query is (dim,), search_many takes (n, dim)",
            field="vector",
        )
    return [pb.Query(vector=to_proto(row[np.newaxis]))]


def many_queries(queries: Queries) -> list[pb.Query]:
    """Texts, or the rows of an (n, dim) array.

    Raises:
        InvalidArgumentError: a lone string, an item that is not text, or another shape.
    """
    if isinstance(queries, str):
        raise InvalidArgumentError("search_many takes a list of texts, not one", field="queries")
    if not isinstance(queries, np.ndarray):
        return [_text_query(text, f"queries[{i}]") for i, text in enumerate(queries)]
    matrix = _as_array(queries, "queries")
    if matrix.ndim != 2:
        raise InvalidArgumentError(
            f"queries have shape {matrix.shape}; vectors are (n, dim)", field="queries"
        )
    return [pb.Query(vector=to_proto(matrix[i : i + 1])) for i in range(len(matrix))]


def search_request(queries: Sequence[pb.Query], options: SearchOptions) -> pb.SearchRequest:
    """The request for `queries`, with what `options` names.

    Raises:
        InvalidArgumentError: naming the option whose value has the wrong type or is out of range.
        TypeError: an option that doesn't exist.
    """
    unknown = options.keys() - SearchOptions.__annotations__.keys()
    if unknown:
        known = ", ".join(SearchOptions.__annotations__)
        raise TypeError(f"unknown option {', '.join(sorted(unknown))}; a search takes {known}")
    request = pb.SearchRequest(queries=queries)
    for name, value in options.items():
        if value is None:
            continue
        try:
            _set_option(request, name, value)
        except (TypeError, ValueError, KeyError) as failure:
            raise InvalidArgumentError(
                f"{name} can't be {value!r}: {failure}", field=name
            ) from failure
    return request


def _set_option(request: pb.SearchRequest, name: str, value: Any) -> None:
    if name in _SCALARS:
        setattr(request, name, value)
    elif name == "fields":
        if isinstance(value, str):
            raise TypeError("give a list of names")
        request.fields.CopyFrom(FieldMask(paths=value))
    elif value in _PRIORITIES:
        request.priority = _PRIORITIES[value]
    else:
        raise ValueError("it is 'interactive' or 'bulk'")


def _text_query(text: str, field: str) -> pb.Query:
    if not isinstance(text, str):
        raise InvalidArgumentError(f"{field} is {type(text).__name__}, not text", field=field)
    try:
        return pb.Query(text=text)
    except ValueError as failure:  # a lone surrogate is no UTF-8
        raise InvalidArgumentError(f"{field} is not valid Unicode: {failure}", field=field) from (
            failure
        )


def _as_array(values: Any, field: str) -> npt.NDArray[np.floating[Any]]:
    array = np.asarray(values)
    if not (np.issubdtype(array.dtype, np.floating) or np.issubdtype(array.dtype, np.integer)):
        raise InvalidArgumentError(f"{field} holds {array.dtype}, not numbers", field=field)
    return array if array.dtype == np.float16 else array.astype(np.float32, copy=False)
