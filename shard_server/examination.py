"""Before a serving process opens a shard's files, a child does (`shard_server.examine`).

Rule: a checksum proves that files are the builder's, not that they are harmless; what could crash
or exhaust faiss meets bounded memory and time in a process that serves nobody. Files whose very
bytes were found sound by the same releases are not tried again. Must not know the wire.
"""

import hashlib
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import faiss
import pyarrow as pa

from shard_server.faiss_files import table_bytes
from shard_server.leash import Leash, run_child
from shoal import __version__
from shoal.child_environment import import_environment
from shoal.errors import IndexFormatError, UnavailableError
from shoal.formats.manifest import Manifest

_ROOM_BYTES = 512 << 20
"""For what doesn't grow with the files: stacks, arenas, one search."""
_BASE_CPU_S = 5
_BYTES_A_CPU_S = 50 << 20
"""A tenth of what reading and checking an index reaches on one slow core."""
_WAIT_FACTOR = 12
"""Seconds waited for one of CPU: whole clusters start at once, on few cores and cold disks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Allowance:
    """What the child may use: address space beyond its own start, processor and waiting time."""

    extra_bytes: int
    cpu_s: int
    wait_s: int


def allowance(manifest: Manifest, shard: int) -> Allowance:
    """Enough for the honest files of these sizes, with room. Pure.

    The files mapped or read, once more for what grows while it is read, and faiss's tables.
    """
    n_bytes = sum(entry.n_bytes for entry in manifest.shards[shard].entries())
    tables = table_bytes(n_lists=manifest.n_lists, dim=manifest.dim)
    cpu_s = _BASE_CPU_S + n_bytes // _BYTES_A_CPU_S
    return Allowance(
        extra_bytes=2 * n_bytes + tables + _ROOM_BYTES, cpu_s=cpu_s, wait_s=_WAIT_FACTOR * cpu_s
    )


def examine_shard(
    index_dir: Path,
    manifest: Manifest,
    shard: int,
    *,
    remembered: Path | None,
    leash: Leash | None = None,
) -> None:
    """Have a child open the shard's files, whose checksums hold already; returns if it can.

    Args:
        index_dir: the index's folder.
        manifest: its manifest.
        shard: a shard that the manifest has.
        remembered: folder of marks for what was found sound; None tries in any case (where no
            checksum was taken, the bytes may be others).
        leash: ends the child where it is cut.

    Raises:
        IndexFormatError: naming the file that is refused, crashes faiss or wants too much.
        UnavailableError: no child can be started now, or somebody killed it, or cut the leash.
    """
    mark = None if remembered is None else remembered / _key(manifest, shard)
    if mark is not None and _is_there(mark):
        return
    _try_in_child(index_dir, manifest, shard, leash or Leash())
    if mark is not None:
        _leave(mark)


def examined_dir() -> Path | None:
    """Where the marks are: $XDG_CACHE_HOME/shoal/examined, the user's own; None without a home."""
    try:
        root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    except RuntimeError:
        return None
    return Path(root) / "shoal" / "examined"


def _try_in_child(index_dir: Path, manifest: Manifest, shard: int, leash: Leash) -> None:
    allowed = allowance(manifest, shard)
    command = [sys.executable, "-P", "-m", "shard_server.examine", str(index_dir), str(shard),
               str(allowed.extra_bytes), str(allowed.cpu_s), str(os.getpid())]  # fmt: skip
    try:
        ended = run_child(
            command,
            input=manifest.model_dump_json().encode(),
            timeout=allowed.wait_s,
            env=_environment(),
            leash=leash,
        )
    except subprocess.TimeoutExpired as late:
        raise IndexFormatError(
            f"{_last_opened(late.stdout, index_dir)}: not open within {allowed.wait_s} s; {_ADVICE}"
        ) from late
    except OSError as error:
        raise UnavailableError(
            f"no process can be started to examine {index_dir}: {error.strerror}"
        ) from error
    if ended.returncode == -signal.SIGKILL:  # neither the files nor its limits do that
        raise UnavailableError(
            f"the process that examined {index_dir} was killed, as the kernel does where memory is "
            "short; try again with more"
        )
    if fault := _fault(ended, index_dir, allowed):
        raise IndexFormatError(fault)


_ADVICE = "the file is damaged or hostile: build the index again, or copy it again from its origin"


def _fault(ended: "subprocess.CompletedProcess[bytes]", index_dir: Path, allowed: Allowance) -> str:
    """What the child's end says of the files; empty for a sound end. Pure."""
    lines = ended.stdout.decode("utf-8", "replace").splitlines()
    last = lines[-1] if lines else ""
    if ended.returncode == 0 and last == "sound":
        return ""
    if ended.returncode == IndexFormatError.exit_code and last.startswith("fault "):
        return last.removeprefix("fault ")
    where = _last_opened(ended.stdout, index_dir)
    told = (ended.stderr.decode("utf-8", "replace").strip().splitlines() or [""])[-1][-300:]
    if ended.returncode == -signal.SIGXCPU:
        return f"{where}: not open after {allowed.cpu_s} s of processor time; {_ADVICE}"
    if ended.returncode < 0:
        return f"{where}: opening it ends in {signal.Signals(-ended.returncode).name}; {_ADVICE}"
    if "MemoryError" in told or "bad_alloc" in told:
        return f"{where}: wants more than {allowed.extra_bytes >> 20} MiB; {_ADVICE}"
    return f"{where}: can't be opened: {told or 'no reason was told'}; {_ADVICE}"


def _last_opened(stdout: bytes | None, index_dir: Path) -> str:
    lines = (stdout or b"").decode("utf-8", "replace").splitlines()
    opened = [line.removeprefix("opening ") for line in lines if line.startswith("opening ")]
    return opened[-1] if opened else str(index_dir)


def _environment() -> dict[str, str]:
    """The child finds our own packages, has one thread, and sees no GPU."""
    return {
        **os.environ,
        **import_environment(),
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
    }


def _key(manifest: Manifest, shard: int) -> str:
    """Names the shard's bytes, what the manifest says of them, and who opened them."""
    known = manifest.model_dump_json(
        include={"dim", "metric", "n_lists", "default_n_probe", "next_ordinal"}
    )
    segments = manifest.shards[shard].model_dump_json()
    releases = f"{__version__} {faiss.__version__} {pa.__version__}"
    return hashlib.sha256(f"{releases}\n{known}\n{segments}".encode()).hexdigest()


def _is_there(mark: Path) -> bool:
    try:
        return mark.exists()
    except OSError:  # a home that can't be read has no marks
        return False


def _leave(mark: Path) -> None:
    try:
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.touch()
    except OSError:
        # a home that can't be written costs half a second at every start, and nothing else
        return
