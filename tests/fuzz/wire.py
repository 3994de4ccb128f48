"""Serialized messages, mutated where a parser looks: tags, wire types, lengths, nesting.

Structure-aware, as libprotobuf-mutator is: fields are taken apart first, and one level down the
lengths around a mutation are put right again, so that it is the deeper parser that meets it.
Knows no message; pure but for the `random.Random` that it is given.
"""

import random

_VARINT, _FIXED64, _BYTES, _BEGIN, _END, _FIXED32 = range(6)
_NOT_UTF8 = (b"\xff\xfe", b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xe2\x82")
_LENGTHS = (1, 127, 128, 1 << 14, 1 << 24, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, (1 << 63) - 1)
_NUMBERS = (0, 1, 2, 15, 16, 99, 2_047, 19_000, (1 << 29) - 1)

Field = tuple[int, int, bytes]
"""Number, wire type, and the value as it stands on the wire, its length included."""


def varint(value: int, *, spare: int = 0) -> bytes:
    """LEB128, with `spare` bytes more than it needs."""
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    for _ in range(spare):
        out[-1] |= 0x80
        out.append(0)
    return bytes(out)


def fields_of(data: bytes) -> list[Field]:
    """The fields of a well-formed message without groups; ValueError for any other."""
    fields, at = [], 0
    while at < len(data):
        tag, at = _read_varint(data, at)
        begin = at
        match tag & 7:
            case 0:
                _, at = _read_varint(data, at)
            case 1:
                at += 8
            case 2:
                length, at = _read_varint(data, at)
                at += length
            case 5:
                at += 4
            case kind:
                raise ValueError(f"wire type {kind}")
        if at > len(data):
            raise ValueError("cut")
        fields.append((tag >> 3, tag & 7, data[begin:at]))
    return fields


def joined(fields: list[Field]) -> bytes:
    """The message of these fields."""
    return b"".join(varint(number << 3 | kind) + value for number, kind, value in fields)


def mutate(data: bytes, chance: random.Random, depth: int = 3) -> bytes:
    """One to three mutations; the result may be no message at all, or still a good one."""
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        data = _mutate_once(data, chance, depth)
    return data


def _mutate_once(data: bytes, chance: random.Random, depth: int) -> bytes:
    try:
        fields = fields_of(data)
    except ValueError:
        return raw(data, chance)
    if not fields or chance.random() < 0.2:
        return raw(data, chance)
    nested = [i for i, (_, kind, value) in enumerate(fields) if kind == _BYTES and len(value) > 1]
    if nested and depth and chance.random() < 0.5:
        at = chance.choice(nested)
        number, kind, value = fields[at]
        _, begin = _read_varint(value, 0)
        inner = _mutate_once(value[begin:], chance, depth - 1)
        fields[at] = (number, kind, varint(len(inner)) + inner)
        return joined(fields)
    return _structured(fields, chance)


def raw(data: bytes, chance: random.Random) -> bytes:
    """One byte flipped, or bytes cut off, doubled or put in that know of no form."""
    changed, at = bytearray(data), chance.randrange(len(data) + 1)
    match chance.randrange(4):
        case 0 if at < len(data):
            changed[at] ^= 1 << chance.randrange(8)
        case 1:
            del changed[at:]
        case 2:
            changed[at:at] = changed[chance.randrange(len(data) + 1) :][:64]
        case _:
            changed[at:at] = chance.choice((*_NOT_UTF8, chance.randbytes(chance.randrange(1, 9))))
    return bytes(changed)


def _structured(fields: list[Field], chance: random.Random) -> bytes:
    if chance.random() < 0.15:
        return chance.choice((_shuffled, _within_itself))(fields, chance)
    at = chance.randrange(len(fields))
    instead = chance.choice(_INSTEAD)(*fields[at], chance)
    return joined(fields[:at]) + instead + joined(fields[at + 1 :])


def _shuffled(fields: list[Field], chance: random.Random) -> bytes:
    return joined(chance.sample(fields, len(fields)))


def _within_itself(fields: list[Field], chance: random.Random) -> bytes:
    inner, number = joined(fields), chance.choice(fields)[0]
    for _ in range(chance.choice((1, 3, 120))):
        inner = varint(number << 3 | _BYTES) + varint(len(inner)) + inner
    return inner


def _repeated(number: int, kind: int, value: bytes, chance: random.Random) -> bytes:
    times = chance.choice((0, 2, 2, 2_000)) if len(value) < 100 else 2
    return joined([(number, kind, value)]) * times


def _other_type(number: int, kind: int, value: bytes, chance: random.Random) -> bytes:
    """The same bytes under any wire type, the two reserved ones too."""
    return varint(number << 3 | chance.randrange(8)) + value


def _other_number(number: int, kind: int, value: bytes, chance: random.Random) -> bytes:
    return varint(chance.choice(_NUMBERS) << 3 | kind) + value


def _false_length(number: int, kind: int, value: bytes, chance: random.Random) -> bytes:
    return varint(number << 3 | _BYTES) + varint(chance.choice(_LENGTHS)) + value[1:]


def _long_tag(number: int, kind: int, value: bytes, chance: random.Random) -> bytes:
    """More bytes than the number needs, or than a number may have."""
    return varint(number << 3 | kind, spare=chance.choice((1, 4, 9, 12))) + value


def _large_number(number: int, kind: int, value: bytes, chance: random.Random) -> bytes:
    large = chance.choice((0, 1 << 31, 1 << 32, (1 << 64) - 1, 1 << 69))
    return varint(number << 3 | _VARINT) + varint(large)


def _groups(number: int, kind: int, value: bytes, chance: random.Random) -> bytes:
    """Deep ones, ended or not, by their own end or another's."""
    n_deep = chance.choice((1, 90, 101, 5_000))
    begun = varint(chance.choice((number, 99)) << 3 | _BEGIN) * n_deep
    ended = varint(chance.choice((number, 99)) << 3 | _END) * chance.choice((0, n_deep))
    return begun + ended + joined([(number, kind, value)])


def _no_text(number: int, kind: int, value: bytes, chance: random.Random) -> bytes:
    bad = chance.choice(_NOT_UTF8)
    return varint(number << 3 | _BYTES) + varint(len(bad)) + bad


def _foreign(number: int, kind: int, value: bytes, chance: random.Random) -> bytes:
    tag = chance.choice(_NUMBERS) << 3 | chance.choice((_VARINT, _FIXED64, _FIXED32))
    return varint(tag) + chance.randbytes(8) + joined([(number, kind, value)])


_INSTEAD = (_repeated, _other_type, _other_number, _false_length, _long_tag, _large_number,
            _groups, _no_text, _foreign)  # fmt: skip
"""What may stand in a field's place."""


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(data) and shift < 70:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
    raise ValueError("no end of a number")
