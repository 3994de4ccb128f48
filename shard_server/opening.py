"""Read a shard's files on a thread, to serve them: proved, then tried in a child, then read.

Rule: nobody waits for a thread whose caller left, and none works on beside the next: it looks up
between files, and its child is ended. Must not know which versions are open, nor devices.
"""

import asyncio
from pathlib import Path

from shard_server.examination import examine_shard, examined_dir
from shard_server.index import ShardIndex
from shard_server.leash import Leash
from shard_server.segment import SegmentData, check_place
from shard_server.source import Brought
from shoal.formats.manifest import FileEntry, Manifest


async def read_aside(files: Brought, manifest: Manifest, shard: int) -> tuple[SegmentData, ...]:
    """As `read_proved`, on a thread, which is done before a cancellation is: two would be too many.

    Raises:
        IndexFormatError: naming the file or the number that is wrong.
        UnavailableError: no child can be started now, or it was killed.
    """
    leash = Leash()
    reading = asyncio.ensure_future(asyncio.to_thread(read_proved, files, manifest, shard, leash))
    try:
        return await asyncio.shield(reading)
    except asyncio.CancelledError:
        leash.cut()
        await asyncio.wait({reading})
        reading.exception()  # seen; nobody asks for it
        raise


def read_proved(
    files: Brought, manifest: Manifest, shard: int, leash: Leash
) -> tuple[SegmentData, ...]:
    """Checksums first, then a child opens the files, then this process."""

    def check(folder: Path, entry: FileEntry) -> Path:
        leash.check()
        return check_place(folder, entry)

    if shard < len(manifest.shards):
        for entry in manifest.shards[shard].entries():
            leash.check()
            files.check(files.folder, entry)
        # without checksums nobody knows that the bytes are those of the last time
        remembered = examined_dir() if files.proved else None
        examine_shard(files.folder, manifest, shard, remembered=remembered, leash=leash)
    return ShardIndex.read(files.folder, manifest, shard, check=check)
