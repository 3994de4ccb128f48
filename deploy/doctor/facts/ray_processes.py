"""Ray's own processes on this machine: the port each serves, whether it asks for tokens.

Rule: Ray isn't imported; a command line and an environment say it all. Linux alone.
"""

import enum
import os
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from deploy.doctor.facts.proc import PROC, command_of, environment_of, folders
from deploy.doctor.facts.sockets import inodes_of, listening_inodes

AUTH_MODE = "RAY_AUTH_MODE"
PROTECTED_MODE = "token"


class RayRole(enum.StrEnum):
    """What a process of Ray is for; the value is its name for people."""

    GCS = "Ray's GCS"
    DASHBOARD = "Ray's dashboard"
    CLIENT = "Ray's client server"
    NODE = "the agent of Ray's node"
    """The raylet, and with it the agent that it starts, whose title hides its command line."""


DEFAULT_PORTS = {
    RayRole.GCS: 6379,
    RayRole.DASHBOARD: 8265,
    RayRole.CLIENT: 10001,
    RayRole.NODE: 52365,
}

_AGENT_PORT = re.compile(r"--listen-port=([0-9]+)")
_PORT_FLAGS = {
    RayRole.GCS: "--gcs_server_port=",
    RayRole.DASHBOARD: "--port=",
    RayRole.CLIENT: "--port=",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class RayProcess:
    """One running process."""

    role: RayRole
    pid: int
    port: int | None
    """The port that it was told to serve, where that is known."""
    auth_mode: str | None
    """RAY_AUTH_MODE of its environment, "" where unset; None where it may not be read."""
    encrypts: bool | None = None
    """Whether RAY_USE_TLS of its environment has it encrypt; None where that may not be read."""


def role_of(command: Sequence[str]) -> RayRole | None:
    """What a command line is of Ray; None for another program's."""
    if not command:
        return None
    program = command[0].rpartition("/")[2]
    if program == "gcs_server":
        return RayRole.GCS
    if program == "raylet":
        return RayRole.NODE
    if any(word.endswith("/ray/dashboard/dashboard.py") for word in command[1:4]):
        return RayRole.DASHBOARD
    if "ray.util.client.server" in command:
        return RayRole.CLIENT
    return None


def port_of(role: RayRole, command: Sequence[str]) -> int | None:
    """The port in the command line; None where it has none, or 0 for any."""
    if role is RayRole.NODE:
        told = [found for word in command if (found := _AGENT_PORT.search(word))]
        return int(told[-1][1]) or None if told else None
    flag = _PORT_FLAGS.get(role)
    for word in command:
        if flag and word.startswith(flag) and word.removeprefix(flag).isdigit():
            return int(word.removeprefix(flag)) or None
    return None


def ray_processes(proc: Path = PROC) -> tuple[RayProcess, ...]:
    """Every process of Ray that this user can see."""
    found = []
    for folder in folders(proc):
        command = command_of(folder)
        if role := role_of(command):
            environment = environment_of(folder)
            found.append(
                RayProcess(
                    role=role,
                    pid=int(folder.name),
                    port=port_of(role, command),
                    auth_mode=None if environment is None else auth_mode(environment),
                    encrypts=None if environment is None else encrypts(environment),
                )
            )
    return tuple(found)


def may_be_rays(command: Sequence[str]) -> bool:
    """Whether a command line could be of Ray, whose processes change their titles. Pure."""
    marks = ("ray::", "ray.", "/ray/")
    return role_of(command) is not None or any(m in word for word in command for m in marks)


def ports_of_others(
    ports: Collection[int] = tuple(DEFAULT_PORTS.values()), proc: Path = PROC
) -> frozenset[int]:
    """Those of Ray's usual ports that other machines reach and another program is seen to hold.

    A Redis has its port where Ray's GCS has it. Whose holder can't be seen is not among them.

    Raises:
        StorageError: the kernel has no tables of sockets.
    """
    held = {i: s.port for i, s in listening_inodes().items() if s.exposed and s.port in ports}
    others: set[int] = set()
    rays: set[int] = set()
    for folder in folders(proc) if held else ():
        if inodes := held.keys() & (inodes_of(int(folder.name), proc) or frozenset()):
            (rays if may_be_rays(command_of(folder)) else others).update(inodes)
    doubtful = {port for inode, port in held.items() if inode not in others - rays}
    return frozenset(held.values()) - doubtful


def auth_mode(environment: Mapping[str, str] = os.environ) -> str:
    """RAY_AUTH_MODE as Ray reads it: in any case; "" where it is unset."""
    return environment.get(AUTH_MODE, "").strip().lower()


def ray_token_file(environment: Mapping[str, str], home: Path | None = None) -> Path | None:
    """The file that Ray takes its token from; None where this user can find none."""
    told = environment.get("RAY_AUTH_TOKEN_PATH")
    try:
        file = Path(told) if told else (home or Path.home()) / ".ray" / "auth_token"
        return file if file.is_file() else None
    except (OSError, RuntimeError):  # another user's home, or a user who has none
        return None


def encrypts(environment: Mapping[str, str]) -> bool:
    """Whether RAY_USE_TLS is on, as Ray reads it."""
    return environment.get("RAY_USE_TLS", "0").lower() in {"1", "true"}
