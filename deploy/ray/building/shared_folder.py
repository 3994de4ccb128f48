"""Whether the machines of a cluster see one folder, and may write it: told before any work.

Rule: the same path on another machine's own disk is another folder, so a path that exists proves
nothing, and the mark's random content does. Must not know Ray.
"""

import secrets
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from deploy.ray.building.node_failures import FULL
from shoal.errors import ConfigError
from shoal.formats.files import write_durably

MARK_FILE = "shared"
_BEGUN_FILE = "begun"
_PATIENCE_S = 90.0
"""A network file system may show a new file to others only after a minute (NFS: acdirmax)."""
_ADVICE = (
    "with --on ray, --index must be on storage that all nodes of the cluster see and write under "
    "one path, such as NFS"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """A file in `folder` that holds `text`."""

    folder: Path
    text: str


def leave_mark(folder: Path) -> Mark:
    """Mark `folder` for `check_mark` on other machines."""
    mark = Mark(folder=folder, text=secrets.token_hex(16))
    write_durably(folder / MARK_FILE, mark.text.encode())
    return mark


def check_mark(mark: Mark) -> None:
    """Refuse to work where the marked folder isn't seen, or can't be written.

    Raises:
        ConfigError: what is seen in its place, or why not. No StorageError: the earlier work is
            sound.
        OSError: the disk is full.
    """
    try:
        text = (mark.folder / MARK_FILE).read_text()
    except OSError as error:
        raise ConfigError(f"{mark.folder}: can't be seen ({error.strerror}); {_ADVICE}") from error
    if text != mark.text:
        raise ConfigError(f"{mark.folder}: is another folder than the build's; {_ADVICE}")
    try:
        # has no name, or none for long: a worker that dies here leaves nothing
        with tempfile.TemporaryFile(dir=mark.folder) as probe:
            probe.write(b"written")
            probe.flush()
    except OSError as error:
        if error.errno in FULL:
            raise
        raise ConfigError(
            f"{mark.folder}: can't be written ({error.strerror}); {_ADVICE}"
        ) from error


def begin_tasks(mark: Mark) -> None:
    """Forget that tasks of the marked folder began: others are about to be asked for."""
    (mark.folder / _BEGUN_FILE).unlink(missing_ok=True)


def say_begun(mark: Mark) -> None:
    """A task has begun, wherever it runs."""
    (mark.folder / _BEGUN_FILE).touch()


def has_begun(mark: Mark) -> bool:
    """Whether any task has said so since `begin_tasks`."""
    return (mark.folder / _BEGUN_FILE).exists()


def sizes_of(folder: Path) -> dict[str, int]:
    """Bytes of each file in `folder`, by its path within."""
    return {
        path.relative_to(folder).as_posix(): path.stat().st_size
        for path in folder.rglob("*")
        if path.is_file()
    }


def wait_for_files(
    folder: Path,
    sizes: Mapping[str, int],
    *,
    patience_s: float = _PATIENCE_S,
    sleep: Callable[[float], object] = time.sleep,
) -> None:
    """Until files that another machine wrote in `folder` are seen here, in full.

    Raises:
        ConfigError: they are not, within `patience_s`.
    """
    deadline_s = time.monotonic() + patience_s
    while missing := _first_missing(sizes, sizes_of(folder)):
        if time.monotonic() >= deadline_s:
            raise ConfigError(
                f"{folder / missing}: another node wrote it, and it can't be seen here; {_ADVICE}"
            )
        sleep(0.1)


def _first_missing(wanted: Mapping[str, int], seen: Mapping[str, int]) -> str:
    return next((name for name, size in wanted.items() if seen.get(name) != size), "")
