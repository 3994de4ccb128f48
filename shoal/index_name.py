"""What an index may be called, wherever a name comes from. Pure; knows no folder and no wire.

Rule: no system reads a path, an escape or a device into a name, although none of ours makes a path
of one: operators and their scripts do.
"""

import re

from shoal.errors import InvalidArgumentError

INDEX_NAME = re.compile(r"^(?!(?:con|prn|aux|nul|com\d|lpt\d)\Z)[a-z0-9_-]{1,64}\Z")
"""The words left out are devices on Windows, in any folder."""
NAME_RULE = "1 to 64 of a-z, 0-9, _ and -, and no device of Windows such as con"


def refuse_unlawful(name: str, *, field: str = "index") -> None:
    """Raise InvalidArgumentError for what can't be an index's name; empty means the only index."""
    if name and not INDEX_NAME.fullmatch(name):
        raise InvalidArgumentError(f"{name[:64]!r} is no index name: {NAME_RULE}", field=field)
