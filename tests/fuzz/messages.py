"""Messages of any type, from their descriptors: edge values, wrong lengths, fields of no contract.

Two kinds: a valid request disturbed in a place or three, which gets past the first check, and one
drawn from nothing. Knows no service: a new field of the contract is fuzzed from the day it exists.
"""

from collections.abc import Sequence
from functools import cache
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from hypothesis import strategies as st

_DEPTH = 4
_MANY = 1_025
"""One more than the limit on queries, texts and rows."""
_GATES = ("index", "version", "mode", "filter")
"""Fields of which a wrong value ends everything, so that what comes after is seldom seen."""
_UNKNOWN = (b"\xf8\x07\x01", b"\x9a\x06\x02ab", b"\xfb\x07\xfc\x07", b"\xa0\xf7\x80\x80\x08\x00")
"""Fields 127 (number), 99 (bytes), 127 (an empty group) and 268,439,924 (number)."""


def _integers(bits: int, *, signed: bool) -> st.SearchStrategy[int]:
    least, most = (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)
    edges = (0, 1, 2, 10, 1_000, 1_001, 1_024, 2_048, 2_049, 65_536, 1 << 31, least, most, -1)
    return st.sampled_from([e for e in edges if least <= e <= most]) | st.integers(least, most)


_FLOATS = st.sampled_from(
    (0.0, -0.0, 1.0, -1.0, 0.5, float("nan"), float("inf"), -float("inf"), 1e-45, -1e-45, 1.1e-38,
     1e15, 1.1e15, 3.4028234663852886e38, 2_048.0, 2_049.0)
) | st.floats(width=32)  # fmt: skip
_TEXTS = st.sampled_from(
    ("", " \t\u2003", "\x00", "books", "tiny", "../books", "text", "id", "metadata", "x" * 129,
     "x" * 65_537, "😀" * 16_384, "😀" * 16_385, "שלום\u202e", "e\u0301" * 40, "%2e%2e", "\ufeff")
) | st.text(max_size=12)  # fmt: skip
_BYTES = st.sampled_from(
    (*(b"\0" * n for n in (0, 1, 2, 3, 4, 8, 16, 31, 32, 33, 64)), b"\xff" * 32, b"\x7f" * 32,
     b"\0\0\xc0\x7f" * 8, b"\0\0\x80\x3f" * 8, b"\0" * 4 * 65_537)
) | st.binary(max_size=80)  # fmt: skip

_F = FieldDescriptor
_SCALARS: dict[int, st.SearchStrategy[Any]] = {
    _F.TYPE_BOOL: st.booleans(),
    _F.TYPE_STRING: _TEXTS,
    _F.TYPE_BYTES: _BYTES,
    _F.TYPE_FLOAT: _FLOATS,
    _F.TYPE_DOUBLE: _FLOATS,
    **dict.fromkeys((_F.TYPE_INT32, _F.TYPE_SINT32, _F.TYPE_SFIXED32), _integers(32, signed=True)),
    **dict.fromkeys((_F.TYPE_INT64, _F.TYPE_SINT64, _F.TYPE_SFIXED64), _integers(64, signed=True)),
    **dict.fromkeys((_F.TYPE_UINT32, _F.TYPE_FIXED32), _integers(32, signed=False)),
    **dict.fromkeys((_F.TYPE_UINT64, _F.TYPE_FIXED64), _integers(64, signed=False)),
}
_SIZES = st.sampled_from((0, 1, 2, 3))
_ACTS = st.sampled_from(("replace", "replace", "enter", "enter", "clear", "many", "unknown"))


def disturbed(valid: Sequence[Message]) -> st.SearchStrategy[Message]:
    """One of the `valid` messages with one to three things changed, or one drawn from nothing."""
    return st.one_of(*(_near(tuple(valid)) for _ in range(4)), _anything(type(valid[0])))


@st.composite
def _near(draw: Any, valid: Sequence[Message]) -> Message:
    chosen = draw(st.sampled_from(range(len(valid))))
    message = type(valid[chosen])()
    message.CopyFrom(valid[chosen])
    for _ in range(draw(st.integers(1, 3))):
        _disturb(draw, message)
    return message


@st.composite
def _anything(draw: Any, cls: type[Message]) -> Message:
    message = cls()
    _fill(draw, message, _DEPTH)
    return message


def _fill(draw: Any, message: Message, depth: int) -> None:
    for field in message.DESCRIPTOR.fields:
        if draw(st.booleans()):
            _put(draw, message, field, depth)


def _disturb(draw: Any, message: Message) -> None:
    fields = message.DESCRIPTOR.fields
    act = draw(_ACTS)
    if act == "unknown" or not fields:
        message.MergeFromString(draw(st.sampled_from(_UNKNOWN)))
        return
    field = draw(_field_of(message.DESCRIPTOR))
    value = getattr(message, field.name)
    if act == "clear":
        message.ClearField(field.name)
    elif act == "many" and field.is_repeated and len(value) and not _is_map(field):
        value.extend([value[0]] * (_MANY - len(value)))
    elif act == "enter" and field.message_type is not None and not _is_map(field):
        if not field.is_repeated:
            _disturb(draw, value)
        elif len(value):
            _disturb(draw, value[draw(st.sampled_from(range(len(value))))])
    else:
        _put(draw, message, field, _DEPTH)


@cache
def _field_of(descriptor: Any) -> st.SearchStrategy[FieldDescriptor]:
    gates = [field for field in descriptor.fields if field.name in _GATES]
    return st.sampled_from([f for f in descriptor.fields if f not in gates] * 6 + gates)


def _put(draw: Any, message: Message, field: FieldDescriptor, depth: int) -> None:
    """Any value into the field; a oneof's other members go, as everywhere."""
    if _is_map(field):
        _put_entries(draw, message, field, depth)
    elif field.is_repeated:
        message.ClearField(field.name)
        values = getattr(message, field.name)
        for _ in range(draw(_SIZES)):
            if field.message_type is None:
                values.append(draw(_scalar(field)))
            else:
                _put_message(draw, values.add(), depth)
    elif field.message_type is None:
        setattr(message, field.name, draw(_scalar(field)))
    else:
        part = getattr(message, field.name)
        part.SetInParent()
        _put_message(draw, part, depth)


def _put_message(draw: Any, part: Message, depth: int) -> None:
    if depth:
        _fill(draw, part, depth - 1)


def _put_entries(draw: Any, message: Message, field: FieldDescriptor, depth: int) -> None:
    key, value = (field.message_type.fields_by_name[name] for name in ("key", "value"))
    entries = getattr(message, field.name)
    for _ in range(draw(_SIZES)):
        drawn = draw(_scalar(key))
        if value.message_type is None:
            entries[drawn] = draw(_scalar(value))
        else:
            _put_message(draw, entries[drawn], depth)


def _scalar(field: FieldDescriptor) -> st.SearchStrategy[Any]:
    if field.enum_type is None:
        return _SCALARS[field.type]
    return _enum_values(field.enum_type)


@cache
def _enum_values(enum: Any) -> st.SearchStrategy[int]:
    known = [value.number for value in enum.values]
    return st.sampled_from([*known, max(known) + 1, -1, 2**31 - 1, -(2**31)])


def _is_map(field: FieldDescriptor) -> bool:
    return field.message_type is not None and field.message_type.GetOptions().map_entry
