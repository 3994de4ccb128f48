"""What the checks look at, read from this machine once; the checks themselves read nothing."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from deploy.doctor.ray_processes import RayProcess, auth_mode, ray_processes
from deploy.doctor.sockets import Listening, read_listening


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """One machine, as one user sees it."""

    listening: tuple[Listening, ...] = ()
    ray: tuple[RayProcess, ...] = ()
    auth_mode: str = ""
    """RAY_AUTH_MODE here, in lower case; "" where it is unset."""
    has_token: bool = False
    """Whether a `ray start` from here would find a token, and so ask for it if nothing is said."""


def read_facts() -> Facts:
    """This machine's facts.

    Raises:
        StorageError: it is no Linux machine.
    """
    return Facts(
        listening=read_listening(),
        ray=ray_processes(),
        auth_mode=auth_mode(),
        has_token=has_ray_token(os.environ, Path.home()),
    )


def has_ray_token(environment: Mapping[str, str], home: Path) -> bool:
    """Whether Ray would find a token: in the environment, a file it names, or its own place."""
    path = environment.get("RAY_AUTH_TOKEN_PATH")
    token_file = Path(path) if path else home / ".ray" / "auth_token"
    return bool(environment.get("RAY_AUTH_TOKEN")) or token_file.is_file()
