"""The id that a call carries through every process, as the metadata entry `x-request-id`."""

import contextvars
import re
import uuid

from shoal.errors import InvalidArgumentError

METADATA_KEY = "x-request-id"
_VALID = re.compile(r"[\x21-\x7e]{1,128}")
_current: contextvars.ContextVar[str] = contextvars.ContextVar("shoal_request_id", default="")


def current_request_id() -> str:
    """The id of the call that this code serves; empty outside a call."""
    return _current.get()


def check_request_id(given: str) -> str:
    """A caller's own id as it is.

    Raises:
        InvalidArgumentError: a server would not take it, so no log would know it.
    """
    if isinstance(given, str) and _VALID.fullmatch(given):
        return given
    raise InvalidArgumentError(
        f"request_id is {given!r:.200}; it must be 1 to 128 printable ASCII characters without "
        "spaces",
        field="request_id",
    )


def adopt_request_id(given: str) -> str:
    """Makes `given` the current call's id; a new one where it is empty or not plain ASCII."""
    request_id = given if _VALID.fullmatch(given) else uuid.uuid4().hex
    _current.set(request_id)
    return request_id
