"""The two sides of a dual encoder."""

from enum import StrEnum


class Role(StrEnum):
    """Which tower a text goes through."""

    QUERY = "query"
    PASSAGE = "passage"
