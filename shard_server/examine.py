"""The child that opens a shard's files first: `python -m shard_server.examine DIR SHARD ...`.

Rule: everything that a serving process will do with the files is done here before, with no more
memory and processor time than the parent allowed: read, check, search once. Whatever hostile bytes
do to faiss or arrow, they do to this process. Must not know why it was asked.

stdin: the manifest as JSON. stdout, line by line: `opening FILE`, and at last `sound`, or
`fault MESSAGE` with exit code 78. A crash leaves the last line as the file that was being opened.
"""

import resource
import signal
import sys
from pathlib import Path

import faiss

from shard_server.devices import CpuBackend
from shard_server.index import ShardIndex
from shard_server.segment import check_place, read_segment
from shoal.errors import IndexFormatError, ShoalError
from shoal.formats.ids import IdFile
from shoal.formats.manifest import Manifest
from shoal.parent import die_with_parent


def examine(index_dir: Path, manifest: Manifest, shard: int) -> None:
    """Open one shard as a serving process would, and its ids as `add` would.

    Raises:
        ShoalError: the files are not what the manifest says, or can't be searched.
    """
    segments = []
    for segment in manifest.shards[shard].segments:
        ids = index_dir / segment.files.ids.path
        _tell(f"opening {ids}")
        if IdFile.open(ids).n_rows != segment.n_rows:
            raise IndexFormatError(f"{ids}: not the ids of {segment.n_rows} rows")
        segments.append(
            read_segment(
                index_dir,
                manifest,
                segment,
                check=check_place,
                opening=lambda path: _tell(f"opening {path}"),
            )
        )
    ShardIndex.place(manifest, shard, segments, CpuBackend()).warm_up()


def allow(extra_bytes: int, cpu_s: int) -> None:
    """From here on, `extra_bytes` of address space beyond today's, and `cpu_s` seconds of CPU."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    for limit, most, spare in (
        (resource.RLIMIT_AS, used + extra_bytes, 0),
        # at the hard limit the kernel sends SIGKILL, as it does where memory is short: so that the
        # two can be told apart, the soft one and its SIGXCPU come before
        (resource.RLIMIT_CPU, cpu_s + int(_cpu_s()) + 1, 1),
        (resource.RLIMIT_CORE, 0, 0),
    ):
        _, hard = resource.getrlimit(limit)
        bound = most + spare if hard == resource.RLIM_INFINITY else min(most + spare, hard)
        resource.setrlimit(limit, (max(0, bound - spare), bound))


def _cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def _tell(line: str) -> None:
    sys.stdout.write(line.replace("\n", " ") + "\n")
    sys.stdout.flush()


def main(index_dir: str, shard: str, extra_bytes: str, cpu_s: str) -> int:
    """Returns the exit code: 0, or 78 for files that are refused."""
    faiss.omp_set_num_threads(1)
    manifest = Manifest.model_validate_json(sys.stdin.buffer.read())
    allow(int(extra_bytes), int(cpu_s))
    try:
        examine(Path(index_dir), manifest, int(shard))
    except ShoalError as error:
        _tell(f"fault {error.message}")
        return IndexFormatError.exit_code
    _tell("sound")
    return 0


if __name__ == "__main__":
    *given, parent_pid = sys.argv[1:]
    die_with_parent(int(parent_pid), signal.SIGKILL)
    sys.exit(main(*given))
