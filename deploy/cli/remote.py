"""`shoal index push | pull`: an index between this machine's disk and a URL."""

import dataclasses
import time
from typing import TYPE_CHECKING, Annotated

import typer

from deploy.cli import flags
from deploy.cli.output import counted, progress, write, write_json

if TYPE_CHECKING:
    from shoal.formats.remote_transfer import Transfer

_Url = Annotated[str, typer.Argument(metavar="URL", help="Such as s3://BUCKET/PATH or file:///P.")]


def push(
    url: _Url,
    *,
    index: flags.IndexDir,
    force: Annotated[
        bool, typer.Option("--force", help="Put aside another index that lies there.")
    ] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Read back every file there, also known ones.")
    ] = False,
    as_json: flags.Json = False,
) -> None:
    """Copy an index's live version to a URL; what is there already is not sent again."""
    from shoal.formats.remote_push import push_index
    from shoal.formats.remote_store import open_remote

    begun_s = time.monotonic()
    with progress() as show:
        done = push_index(index, open_remote(url), show, force=force, check_all=check)
    _tell(done, f"live at {url}", time.monotonic() - begun_s, as_json=as_json)


def pull(url: _Url, *, index: flags.IndexDir, as_json: flags.Json = False) -> None:
    """Copy the live version at a URL to a folder, each file checked before it counts."""
    from shoal.formats.remote_pull import pull_index
    from shoal.formats.remote_store import open_remote

    begun_s = time.monotonic()
    with progress() as show:
        done = pull_index(open_remote(url), index, show)
    _tell(done, f"live in {index}", time.monotonic() - begun_s, as_json=as_json)


def register(app: typer.Typer) -> None:
    """Put the commands into `shoal index`."""
    for command in (push, pull):
        app.command()(command)


def _tell(done: "Transfer", where: str, took_s: float, *, as_json: bool) -> None:
    if as_json:
        write_json({**dataclasses.asdict(done), "seconds": round(took_s, 1)})
        return
    state = where if done.turned else f"{where} already"
    rate = done.n_bytes_copied / 1e6 / max(took_s, 1e-3)
    write(
        f"index {done.name!r} version {done.version}: {state}; "
        f"{counted(done.n_files_copied, 'file')} copied "
        f"({done.n_bytes_copied / 1e6:,.1f} MB, {rate:,.1f} MB/s), {done.n_files_kept} were there"
    )
