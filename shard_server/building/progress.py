"""What a long build says while it runs."""

from typing import Protocol


class Progress(Protocol):
    """Called in the builder's thread, often; must return at once."""

    def __call__(self, stage: str, done: int, total: int | None) -> None:
        """`done` of `total` units of "read", "encode", "train" or "fill".

        Units are passages, but steps for "train". `total` is None while it isn't known. Stages
        "kept encode" and the like say once what an interrupted run had done, which stays.
        """


def silent(stage: str, done: int, total: int | None) -> None:
    """Says nothing."""
