"""What the kernel tells of processes by their folders in /proc: command lines, environments."""

from pathlib import Path

PROC = Path("/proc")


def folders(proc: Path = PROC) -> list[Path]:
    """One for each process that there is, by pid."""
    return sorted(proc.glob("[0-9]*"), key=lambda folder: int(folder.name))


def command_of(folder: Path) -> list[str]:
    """The words of its command line; none where it is gone, or has none to tell."""
    return _words(folder / "cmdline") or []


def environment_of(folder: Path) -> dict[str, str] | None:
    """What it was started with; None where it is gone or another user's."""
    words = _words(folder / "environ")
    if words is None:
        return None
    return {name: value for name, _, value in (word.partition("=") for word in words)}


def _words(path: Path) -> list[str] | None:
    try:
        return path.read_bytes().decode(errors="replace").rstrip("\0").split("\0")
    except OSError:
        return None
