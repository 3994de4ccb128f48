"""Which TCP ports are listened on, as the kernel's tables tell. Linux alone.

Rule: tables are parsed as text by a pure function; `read_listening` alone touches the machine.
"""

import contextlib
import ipaddress
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from shoal.errors import StorageError

_TABLES = ("/proc/net/tcp", "/proc/net/tcp6")
_LISTEN = "0A"
_SOCKET = re.compile(r"socket:\[([0-9]+)\]")


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Listening:
    """One listening socket."""

    host: str
    """An address of this machine, or 0.0.0.0 or :: for all of them; IPv4 where it is mapped."""
    port: int

    @property
    def exposed(self) -> bool:
        """Whether other machines can reach it, firewalls aside."""
        return not ipaddress.ip_address(self.host).is_loopback


def parse_table(text: str) -> list[Listening]:
    """The listening sockets of one table in the form of proc(5)'s /proc/net/tcp."""
    return [socket for _, socket in _parse(text)]


def read_listening() -> tuple[Listening, ...]:
    """Every listening socket of this network namespace, each once, in order.

    Raises:
        StorageError: the kernel has no such tables.
    """
    return tuple(sorted({socket for table in _tables() for socket in parse_table(table)}))


def listening_inodes() -> dict[int, Listening]:
    """Every listening socket by its inode, which a process's open files name.

    Raises:
        StorageError: the kernel has no such tables.
    """
    return {inode: socket for table in _tables() for inode, socket in _parse(table)}


def inodes_of(pid: int, proc: Path = Path("/proc")) -> frozenset[int] | None:
    """The inodes of a process's sockets, none where it is gone; None where it is another user's."""
    found = set()
    try:
        for path in (proc / str(pid) / "fd").iterdir():
            with contextlib.suppress(FileNotFoundError):  # closed meanwhile
                if match := _SOCKET.fullmatch(str(path.readlink())):
                    found.add(int(match[1]))
    except PermissionError:
        return None
    except (FileNotFoundError, ProcessLookupError):
        return frozenset()
    return frozenset(found)


def _parse(text: str) -> Iterator[tuple[int, Listening]]:
    for line in text.splitlines()[1:]:
        fields = line.split()
        if fields[3] == _LISTEN:
            address, _, port = fields[1].partition(":")
            inode = int(fields[9]) if len(fields) > 9 else 0
            yield inode, Listening(host=_host(address), port=int(port, 16))


def _tables() -> list[str]:
    try:
        tables = [Path(path).read_text() for path in _TABLES if Path(path).exists()]
    except OSError as failure:
        raise StorageError(f"can't read {failure.filename}: {failure.strerror}") from failure
    if not tables:
        raise StorageError(f"{_TABLES[0]} is missing: shoal doctor looks at Linux machines")
    return tables


def _host(digits: str) -> str:
    # 32-bit words, each as this machine holds it
    words = [int(digits[at : at + 8], 16) for at in range(0, len(digits), 8)]
    packed = struct.pack(f"={len(words)}I", *words)
    address = ipaddress.ip_address(packed)
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address)
