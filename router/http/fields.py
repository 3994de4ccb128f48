"""A JSON object's fields, by type. Pure; a refusal names the field as the caller wrote it."""

from typing import Any

from shoal.errors import InvalidArgumentError


def refuse_unknown(content: dict[str, Any], known: frozenset[str]) -> None:
    """Refuses fields that would be passed over in silence. Raises InvalidArgumentError."""
    if unknown := sorted(content.keys() - known):
        raise InvalidArgumentError(
            f"unknown field {unknown[0][:64]!r}; known are {', '.join(sorted(known))}",
            field=unknown[0][:64],
        )


def text_of(value: Any, field: str) -> str:
    """`value`, a text that UTF-8 can carry. Raises InvalidArgumentError."""
    if not isinstance(value, str):
        raise InvalidArgumentError(f"{field} must be a text", field=field)
    try:
        value.encode()
    except UnicodeEncodeError as failure:
        raise InvalidArgumentError(f"{field} holds half a character", field=field) from failure
    return value


def whole_of(content: dict[str, Any], field: str) -> int | None:
    """A whole number of 32 bits; None where it is absent or null. Raises InvalidArgumentError."""
    value = content.get(field)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or abs(value) >= 1 << 31:
        raise InvalidArgumentError(f"{field} must be a whole number", field=field)
    return value


def number_of(content: dict[str, Any], field: str) -> float | None:
    """A number; None where it is absent or null. Raises InvalidArgumentError."""
    value = content.get(field)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) > 1e30:
        raise InvalidArgumentError(f"{field} must be a number", field=field)
    return float(value)


def switch_of(content: dict[str, Any], field: str) -> bool:
    """True or false; false where it is absent or null. Raises InvalidArgumentError."""
    value = content.get(field)
    if value is not None and not isinstance(value, bool):
        raise InvalidArgumentError(f"{field} must be true or false", field=field)
    return bool(value)
