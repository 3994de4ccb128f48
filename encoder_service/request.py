"""An Encode request, checked. Pure: every refusal names its field, before any work is done."""

from dataclasses import dataclass

from encoder_service.batching import Priority
from encoder_service.roles import Role
from shoal.errors import InvalidArgumentError
from shoal.v1 import encoder_pb2 as pb
from shoal.v1 import priority_pb2

MAX_TEXTS = 1024
"""Texts a call."""
MAX_TEXT_BYTES = 64 * 1024
"""Bytes of UTF-8 a text, its title counted separately."""

_ROLES = {
    pb.ENCODE_ROLE_UNSPECIFIED: Role.QUERY,
    pb.ENCODE_ROLE_QUERY: Role.QUERY,
    pb.ENCODE_ROLE_PASSAGE: Role.PASSAGE,
}
_DEFAULT_PRIORITIES = {Role.QUERY: Priority.INTERACTIVE, Role.PASSAGE: Priority.BULK}
_PRIORITIES = {
    priority_pb2.PRIORITY_INTERACTIVE: Priority.INTERACTIVE,
    priority_pb2.PRIORITY_BULK: Priority.BULK,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodeCall:
    """What is asked for; `titles` is None or as long as `texts`."""

    texts: list[str]
    titles: list[str] | None
    role: Role
    priority: Priority
    expected_fingerprint: str


def read_request(request: pb.EncodeRequest) -> EncodeCall:
    """The call that a request asks for.

    Raises:
        InvalidArgumentError: naming the field, such as `texts[3]`.
    """
    role = _ROLES.get(request.role)
    if role is None:
        raise InvalidArgumentError(
            f"role {request.role} is not known; send QUERY or PASSAGE", field="role"
        )
    priority = _DEFAULT_PRIORITIES[role]
    if request.priority != priority_pb2.PRIORITY_UNSPECIFIED:
        known = _PRIORITIES.get(request.priority)
        if known is None:
            raise InvalidArgumentError(
                f"priority {request.priority} is not known; send INTERACTIVE or BULK",
                field="priority",
            )
        priority = known
    texts = list(request.texts)
    if not 1 <= len(texts) <= MAX_TEXTS:
        raise InvalidArgumentError(
            f"texts has {len(texts)} entries; a call takes 1 to {MAX_TEXTS}", field="texts"
        )
    for position, text in enumerate(texts):
        if not text or text.isspace():
            raise InvalidArgumentError(
                f"texts[{position}] is empty; send at least one visible character",
                field=f"texts[{position}]",
            )
        _refuse_long(text, f"texts[{position}]")
    return EncodeCall(
        texts=texts,
        titles=_titles(request, len(texts)),
        role=role,
        priority=priority,
        expected_fingerprint=request.expected_fingerprint,
    )


def _titles(request: pb.EncodeRequest, n_texts: int) -> list[str] | None:
    titles = list(request.titles)
    if not titles:
        return None
    if len(titles) != n_texts:
        raise InvalidArgumentError(
            f"titles has {len(titles)} entries and texts {n_texts}; send none, or one a text",
            field="titles",
        )
    for position, title in enumerate(titles):
        _refuse_long(title, f"titles[{position}]")
    return titles


def _refuse_long(text: str, field: str) -> None:
    # a character is 1 to 4 bytes: only a text between the bounds needs to be counted
    if len(text) * 4 <= MAX_TEXT_BYTES:
        return
    n_bytes = len(text.encode())
    if n_bytes > MAX_TEXT_BYTES:
        raise InvalidArgumentError(
            f"{field} has {n_bytes} bytes of UTF-8; at most {MAX_TEXT_BYTES} are taken", field=field
        )
