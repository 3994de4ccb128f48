"""An index's files against its manifest: sizes, checksums, and what a build left unfinished."""

from pathlib import Path

from shoal.errors import IndexFormatError
from shoal.formats.manifest import FileEntry
from shoal.formats.versions import check_file, unfinished_paths

STAGING_DIR = ".staging"
"""Where builds keep their work; `shard_server.building.staging` has it too, and loads faiss."""


def check_files(folder: Path, entries: tuple[FileEntry, ...], budget: int) -> tuple[list[str], int]:
    """Faults, and the bytes hashed: the smallest files first, the others' sizes alone."""
    faults, n_hashed = [], 0
    for entry in sorted(entries, key=lambda entry: entry.n_bytes):
        path = folder / entry.path
        try:
            if n_hashed + entry.n_bytes <= budget:
                n_hashed += entry.n_bytes
                check_file(folder, entry)
            elif path.stat().st_size != entry.n_bytes:
                faults.append(
                    f"{path}: {path.stat().st_size} bytes, the manifest says {entry.n_bytes}"
                )
        except IndexFormatError as failure:
            faults.append(failure.message)
        except FileNotFoundError:
            faults.append(f"{path}: missing, though the manifest lists it")
    return faults, n_hashed


def check_deeply(folder: Path) -> tuple[list[str], int]:
    """Faults that 'shoal index verify' finds, and the bytes that an unfinished build left."""
    from shard_server.building.verify import verify_index  # noqa: PLC0415 -- loads faiss

    report = verify_index(folder)
    return list(report.faults), report.n_unfinished_bytes


def unfinished_bytes(folder: Path) -> int:
    """What an interrupted build or commit left."""
    left = [*unfinished_paths(folder), folder / STAGING_DIR]
    files = [file for path in left for file in (path, *path.rglob("*")) if file.is_file()]
    return sum(file.stat().st_size for file in files)
