"""Refuses requests with fields that this release doesn't know.

An unfiltered answer to a filtered question is worse than none, so a request from a newer client
fails loudly instead of losing a part of its meaning (protobuf keeps unknown fields by number).
"""

from google.protobuf.message import Message
from google.protobuf.unknown_fields import UnknownFieldSet

from shoal.errors import InvalidArgumentError

_MAX_NAMED = 8


def refuse_unknown_fields(request: Message) -> None:
    """Raises InvalidArgumentError naming the unknown fields, as `queries[3].99`.

    The check for the usual case (none) copies and measures in C; only a request that does have
    unknown fields is walked.
    """
    known = type(request)()
    known.CopyFrom(request)
    known.DiscardUnknownFields()
    if known.ByteSize() == request.ByteSize():
        return
    paths = _unknown_paths(request, "")
    names = ", ".join(paths[:_MAX_NAMED]) + (", …" if len(paths) > _MAX_NAMED else "")
    raise InvalidArgumentError(
        f"unknown fields {names} in {request.DESCRIPTOR.full_name}; this server is older than the "
        "client, or the client is not Shoal's",
        field=paths[0] if paths else "",
    )


def _unknown_paths(message: Message, prefix: str) -> list[str]:
    # the stubs call it a container of fields, and it can be walked only by index
    unknown = UnknownFieldSet(message)
    paths = [f"{prefix}{unknown[i].field_number}" for i in range(len(unknown))]
    for descriptor, value in message.ListFields():
        if descriptor.message_type is None:
            continue
        name = f"{prefix}{descriptor.name}"
        if descriptor.message_type.GetOptions().map_entry:
            continue  # no request of ours has a map
        if descriptor.is_repeated:
            for i, item in enumerate(value):
                paths += _unknown_paths(item, f"{name}[{i}].")
        else:
            paths += _unknown_paths(value, f"{name}.")
    return paths
