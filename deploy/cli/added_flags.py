"""Flags that a decorator adds to a command, so that what many commands share is spelled once.

typer reads a command's flags from its signature; here they are written into it.
"""

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any


def with_flags(
    command: Callable[..., None],
    flags: Mapping[str, Any],
    *,
    argument: str,
    gathered: Callable[[dict[str, Any]], Any],
) -> Callable[..., None]:
    """The command with these flags as well, which it gets together, as one argument.

    Args:
        command: its parameters are keyword-only; `argument` is one of them, and no flag.
        flags: by parameter, what typer is told of each; all default to None.
        argument: which parameter gets them.
        gathered: makes its value of the flags' values.
    """

    @functools.wraps(command)
    def run(**values: Any) -> None:
        given = {name: values.pop(name) for name in flags}
        command(**values, **{argument: gathered(given)})

    own = [p for name, p in inspect.signature(command).parameters.items() if name != argument]
    added = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=kind)
        for name, kind in flags.items()
    ]
    run.__signature__ = inspect.Signature([*own, *added])  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in (*own, *added)}
    return run
