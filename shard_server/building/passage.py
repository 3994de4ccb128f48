"""What a passage is before it has a row, and what makes a record into one.

Rule: a fault is one CorpusError that begins with `file:line` and says what to do. Pure; must not
know which format a record came from.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from shoal.errors import CorpusError
from shoal.formats.manifest import MetadataType
from shoal.formats.passages import MetadataValue

MAX_ID_BYTES = 512
MAX_TITLE_BYTES = 64 << 10
MAX_TEXT_BYTES = 1 << 20
MAX_METADATA_COLUMNS = 256

_ID_FIELDS = ("_id", "id")
_TEXT_FIELDS = ("text", "contents")
_INT64 = range(-(1 << 63), 1 << 63)


@dataclass(frozen=True, slots=True, kw_only=True)
class Passage:
    """A unit of text; `where` is its `file:line`, for errors."""

    id: str
    title: str
    text: str
    metadata: Mapping[str, MetadataValue] = field(default_factory=dict)
    where: str


def passage_from_record(record: Mapping[str, Any], where: str) -> Passage:
    """A passage from a JSON object, a table's row or the like.

    Fields: `_id` or `id`; `title` (may be absent); `text` or `contents`; `metadata`, an object,
    and every other field are metadata. Null means absent.

    Raises:
        CorpusError: naming `where` and the field.
    """
    rest = {name: value for name, value in record.items() if value is not None}
    passage_id = _take_id(rest, where)
    title = _take_text(rest, ("title",), where) or ""
    text = _take_text(rest, _TEXT_FIELDS, where)
    if text is None:
        raise CorpusError(f"{where}: no field 'text' (or 'contents')")
    nested = rest.pop("metadata", {})
    if not isinstance(nested, Mapping):
        raise CorpusError(f"{where}: field 'metadata' must be an object, not {_kind(nested)}")
    values = {**rest, **{name: value for name, value in nested.items() if value is not None}}
    passage = Passage(id=passage_id, title=title, text=text, metadata=values, where=where)
    check_passage(passage)
    return passage


def check_passage(passage: Passage) -> None:
    """Refuse what an index can't hold: empty or oversized fields, lone surrogates, odd metadata."""
    where = passage.where
    sizes = {
        "id": _n_bytes(passage.id, "id", where),
        "title": _n_bytes(passage.title, "title", where),
        "text": _n_bytes(passage.text, "text", where),
    }
    limits = {"id": MAX_ID_BYTES, "title": MAX_TITLE_BYTES, "text": MAX_TEXT_BYTES}
    if not passage.id:
        raise CorpusError(f"{where}: the id is empty")
    if not passage.text.strip():
        raise CorpusError(f"{where}: the text of id {passage.id!r} is empty; leave the line out")
    for name, limit in limits.items():
        if sizes[name] > limit:
            raise CorpusError(f"{where}: {name} has {sizes[name]:,} bytes, the most is {limit:,}")
    for name, value in passage.metadata.items():
        _n_bytes(name, "a metadata name", where)
        metadata_type(name, value, where)


def metadata_type(name: str, value: Any, where: str) -> MetadataType:
    """The column type that `value` asks for; CorpusError for what no column can hold."""
    match value:
        case bool():
            return "bool"
        case int() if value in _INT64:
            return "int64"
        case float() if math.isfinite(value):
            return "double"
        case str():
            _n_bytes(value, f"metadata {name!r}", where)
            return "string"
        case list() if all(isinstance(item, str) for item in value):
            _n_bytes("".join(value), f"metadata {name!r}", where)
            return "string_list"
    raise CorpusError(
        f"{where}: metadata {name!r} is {_kind(value)}; it must be a string, a 64-bit integer, "
        "a finite number, a bool or a list of strings"
    )


class MetadataColumns:
    """The metadata columns met so far, each with one type and the place that settled it."""

    def __init__(self) -> None:
        self._found: dict[str, tuple[MetadataType, str]] = {}

    @property
    def types(self) -> dict[str, MetadataType]:
        """Column types, by name in alphabetical order."""
        return {name: kind for name, (kind, _) in sorted(self._found.items())}

    def meet(self, passage: Passage) -> None:
        """Take in a passage's metadata; CorpusError where a column would get two types.

        Integers and doubles in one column make it double: JSON writers drop the `.0`.
        """
        for name, value in passage.metadata.items():
            kind = metadata_type(name, value, passage.where)
            known, first = self._found.setdefault(name, (kind, passage.where))
            if known == kind:
                continue
            if {known, kind} != {"int64", "double"}:
                raise CorpusError(
                    f"{passage.where}: metadata {name!r} is {kind} here and {known} at {first}; "
                    "a column has one type"
                )
            self._found[name] = ("double", first)
        if len(self._found) > MAX_METADATA_COLUMNS:
            raise CorpusError(
                f"{passage.where}: more than {MAX_METADATA_COLUMNS} metadata names; "
                "put what varies into values, not names"
            )


def _take_id(rest: dict[str, Any], where: str) -> str:
    for name in _ID_FIELDS:
        if name not in rest:
            continue
        value = rest.pop(name)
        if isinstance(value, int) and not isinstance(value, bool):
            return str(value)
        if isinstance(value, str):
            return value
        raise CorpusError(f"{where}: field {name!r} must be a string, not {_kind(value)}")
    raise CorpusError(f"{where}: no field '_id' (or 'id')")


def _take_text(rest: dict[str, Any], names: tuple[str, ...], where: str) -> str | None:
    for name in names:
        if name not in rest:
            continue
        value = rest.pop(name)
        if isinstance(value, str):
            return value
        raise CorpusError(f"{where}: field {name!r} must be a string, not {_kind(value)}")
    return None


def _n_bytes(text: str, name: str, where: str) -> int:
    try:
        return len(text.encode())
    except UnicodeEncodeError as error:
        lone = hex(ord(text[error.start]))
        raise CorpusError(f"{where}: {name} holds half a surrogate pair ({lone})") from None


def _kind(value: Any) -> str:
    return {dict: "an object", list: "a list", type(None): "null"}.get(
        type(value), f"{type(value).__name__} {str(value)[:40]!r}"
    )
