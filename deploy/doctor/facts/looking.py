"""How a look may fail: as a value, never as a traceback."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from shoal.errors import ShoalError

Seen = TypeVar("Seen")


@dataclass(frozen=True, slots=True, kw_only=True)
class Unseen:
    """What could not be looked at, and why not, for people; `lacks` is a module that is missing."""

    what: str
    why: str
    lacks: str = ""


def look(unseen: list[Unseen], what: str, read: Callable[[], Seen], otherwise: Seen) -> Seen:
    """What `read` returns; where it fails, `otherwise`, with the reason added to `unseen`."""
    try:
        return read()
    except ModuleNotFoundError as failure:
        unseen.append(Unseen(what=what, why=reason_of(failure), lacks=failure.name or ""))
        return otherwise
    except Exception as failure:  # noqa: BLE001 -- a doctor that falls over helps nobody
        unseen.append(Unseen(what=what, why=reason_of(failure)))
        return otherwise


def reason_of(failure: Exception) -> str:
    """A failure in one line: our own message as it is, another's with its kind."""
    if isinstance(failure, ShoalError):
        return failure.message
    text = " ".join(str(failure).split())
    return f"{type(failure).__name__}: {text}" if text else type(failure).__name__
