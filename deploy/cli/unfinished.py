"""What a command says when a build ends before its time. Must not decide what is kept."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from deploy.cli.output import note
from shoal.errors import LockedError


@contextlib.contextmanager
def telling_what_is_kept(index_dir: Path) -> Iterator[None]:
    """Where the work so far stays for the next run, say so beside the failure."""
    from shard_server.building.staging import STAGING_DIR

    try:
        yield
    except LockedError:  # the work there is somebody else's
        raise
    except BaseException:
        if (index_dir / STAGING_DIR).is_dir():
            note("the work so far is kept: the same command goes on with it, --restart does not")
        raise
