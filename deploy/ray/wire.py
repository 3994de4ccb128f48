"""How the directory and those who ask it write values to each other: plain dicts.

Rule: while another program is rolled in, the old one and the new one talk. Who reads takes the
default of a field that isn't there, and leaves out one that it doesn't know; a pickled dataclass
would be read field by field in its order, whatever each was. A dict shows the token: log none.
"""

from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any, TypeVar

from deploy.load import ProcessLoad
from deploy.ray.registry import Beat, Member, Part, Pin, Told

_Value = TypeVar("_Value")
Wire = Mapping[str, Any]


def to_wire(value: Beat | Member | Told | Pin) -> dict[str, Any]:
    """As dicts, numbers, texts and tuples."""
    return asdict(value)


def beat_of(wire: Wire) -> Beat:
    """A heartbeat."""
    return _read(Beat, wire, member=member_of(wire["member"]), pin=_pin(wire))


def member_of(wire: Wire) -> Member:
    """A member; without its load where that has other fields than here."""
    try:
        load = _read(ProcessLoad, wire["load"]) if wire.get("load") else None
    except TypeError:
        load = None
    return _read(Member, wire, part=_read(Part, wire["part"]), load=load)


def told_of(wire: Wire) -> Told:
    """The directory's answer."""
    return _read(Told, wire, pin=_pin(wire))


def pin_of(wire: Wire) -> Pin:
    """A pinned version."""
    return _read(Pin, wire)


def _pin(wire: Wire) -> Pin | None:
    return pin_of(wire["pin"]) if wire.get("pin") else None


def _read(cls: type[_Value], wire: Wire, **made: Any) -> _Value:
    known = {field.name for field in fields(cls)}  # type: ignore[arg-type]
    return cls(**{**{name: value for name, value in wire.items() if name in known}, **made})
