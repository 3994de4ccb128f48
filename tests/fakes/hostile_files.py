"""Files whose checksums hold and whose contents don't: mutated where readers look for numbers."""

import random
import struct
from pathlib import Path
from typing import Any

from shoal.formats.files import move_into_store
from shoal.formats.manifest import FileEntry, Manifest

EDGES = (0, 1, 2, 255, 2**15, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**62, 2**63 - 1, 2**64 - 1)
FOURCCS = (b"IxFI", b"IxF2", b"IxPq", b"IxSQ", b"IwFl", b"IwSq", b"IwPQ", b"IwPf", b"IPfs",
           b"IxPT", b"IxRF", b"IxM2", b"IHNf", b"ilar", b"ilbl", b"ilod", b"ibfl")  # fmt: skip
_HEADER_BYTES = 160


def replace_file(
    index_dir: Path, manifest: Manifest, name: str, content: bytes
) -> tuple[Manifest, Path]:
    """`content` as the first segment's file `name`, stored and listed with its own checksum."""
    segment = manifest.shards[0].segments[0]
    old = getattr(segment.files, name)
    staged = index_dir / (f"{name}.file" if old is None else Path(old.path).name)
    staged.write_bytes(content)
    sha256, n_bytes = move_into_store(staged, index_dir / "data")
    entry = FileEntry(path=f"data/{sha256}/{staged.name}", n_bytes=n_bytes, sha256=sha256)
    files = segment.files.model_copy(update={name: entry})
    changed = segment.model_copy(update={"files": files})
    first, *rest = manifest.shards
    segments = (changed, *first.segments[1:])
    shards = (first.model_copy(update={"segments": segments}), *rest)
    return manifest.model_copy(update={"shards": shards}), index_dir / entry.path


def fields_of(content: bytes, numbers: list[int]) -> list[tuple[int, str]]:
    """Places (offset, struct format) where one of the numbers stands: counts and lengths."""
    found = []
    for number in numbers:
        for form in ("<Q", "<I"):
            wanted, at = struct.pack(form, number), -1
            while (at := content.find(wanted, at + 1)) >= 0 and len(found) < 400:
                found.append((at, form))
    return found


def mutate(content: bytes, numbers: list[int], chance: random.Random) -> bytes:
    """One mutation: a count, a type, a header byte, a cut, a doubled or a foreign piece."""
    changed = bytearray(content)
    kind = chance.randrange(8)
    fields = fields_of(content, numbers)
    if kind < 4 and fields:
        at, form = chance.choice(fields)
        size = struct.calcsize(form)
        (old,) = struct.unpack_from(form, content, at)
        value = chance.choice((*EDGES, old + 1, old - 1, old * 2, old // 2))
        changed[at : at + size] = struct.pack(form, value % (1 << 8 * size))
    elif kind == 4:
        places = [at for code in FOURCCS if (at := content.find(code)) >= 0] or [0]
        at = chance.choice(places)
        changed[at : at + 4] = chance.choice(FOURCCS)
    elif kind == 5:
        at = chance.randrange(min(_HEADER_BYTES, len(content)))
        changed[at] = chance.choice(
            (0, 1, 0x7F, 0x80, 0xFF, changed[at] ^ 1 << chance.randrange(8))
        )
    elif kind == 6:
        at, end = sorted(chance.randrange(len(content)) for _ in "12")
        changed[at:end] = b""
    else:
        at = chance.randrange(len(content))
        piece = content[: chance.randrange(1, 256)]
        changed[at : at + len(piece) * chance.randrange(2)] = piece
    return bytes(changed)


def numbers_in(manifest: Manifest, index: Any) -> list[int]:
    """The counts that the index's header repeats."""
    numbers = {manifest.dim, manifest.n_rows, manifest.n_lists, manifest.dim * manifest.n_rows}
    for name in ("code_size", "nlist", "M2", "ntotal2"):
        numbers.add(int(getattr(index, name, 0)))
    return sorted(number for number in numbers if number > 3)
