"""`shoal index inspect | verify`: what an index is, and whether it is whole."""

import dataclasses
from typing import TYPE_CHECKING

import typer

from deploy.cli import flags
from deploy.cli.output import counted, note, progress, write, write_json
from shoal.errors import IndexFormatError

if TYPE_CHECKING:
    from deploy.index_place import IndexPlace
    from shard_server.building.verify import VerifyReport
    from shoal.formats.remote_verify import RemoteReport


def inspect(
    *, index: flags.IndexAt, cache_dir: flags.CacheDir = None, as_json: flags.Json = False
) -> None:
    """Describe an index: recipe, counts, balance of its lists, sizes, encoder."""
    from deploy.cli.inspection import show_index
    from deploy.index_place import IndexPlace
    from shard_server.building.inspection import inspect_index

    place = IndexPlace.of(index, cache_dir)
    with progress() as show:
        folder = place.whole(show)
    report = inspect_index(folder)
    if as_json:
        write_json(report)
    else:
        show_index(report)


def verify(*, index: flags.IndexAt, as_json: flags.Json = False) -> None:
    """Check every file of an index against its manifest; a URL's are read where they lie."""
    from deploy.index_place import IndexPlace

    place = IndexPlace.of(index, None)
    report = _verified(place)
    if as_json:
        write_json(dataclasses.asdict(report))
    for fault in report.faults:
        note(fault)
    if report.faults:
        n_faults = counted(len(report.faults), "fault")
        raise IndexFormatError(f"{place}: {n_faults}; build it again, or copy it")
    if not as_json:
        write(
            f"{place}: sound; version {report.current} is live, "
            f"{counted(len(report.versions), 'version')}, {counted(report.n_files, 'file')}, "
            f"{report.n_bytes / 1e6:,.1f} MB"
        )
        n_unfinished = getattr(report, "n_unfinished_bytes", 0)  # nobody builds at a URL
        if n_unfinished:
            write(
                f"an interrupted build left {n_unfinished / 1e6:,.1f} MB of work: the same command "
                "goes on with it, --restart throws it away"
            )


def _verified(place: "IndexPlace") -> "VerifyReport | RemoteReport":
    if not place.url:
        from shard_server.building.verify import verify_index

        return verify_index(place.folder)
    from shoal.formats.remote_store import open_remote
    from shoal.formats.remote_verify import verify_remote

    with progress() as show:
        return verify_remote(open_remote(place.url), show)


def register(app: typer.Typer) -> None:
    """Put the commands into `shoal index`."""
    for command in (inspect, verify):
        app.command()(command)
