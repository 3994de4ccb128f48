"""`shoal index versions | rollback | prune`: an index's past, on this machine's disk."""

import dataclasses
from typing import Annotated

import typer

from deploy.cli import flags
from deploy.cli.output import counted, note, write, write_json, write_table
from deploy.state import served_versions


def versions(*, index: flags.IndexAt, as_json: flags.Json = False) -> None:
    """List an index's versions; the live one has a star."""
    from deploy.index_place import IndexPlace
    from shoal.formats.history import summarize_versions

    with IndexPlace.of(index, None).manifests() as folder:
        found = summarize_versions(folder)
    if as_json:
        write_json([dataclasses.asdict(version) for version in found])
        return
    write_table(
        ("", "version", "created", "passages", "shards", "segments", "recipe", "MB", "own MB"),
        [
            ("*" if v.is_live else "", v.version, v.created_at, v.n_live, v.n_shards, v.n_segments,
             v.recipe, round(v.n_bytes / 1e6, 1), round(v.n_own_bytes / 1e6, 1))
            for v in found
        ],
    )  # fmt: skip
    for version in found:
        if version.fault:
            note(f"version {version.version}: {version.fault}")


def rollback(
    *,
    index: flags.IndexDir,
    version: Annotated[
        int | None,
        typer.Option("--version", min=1, help="What to go back to. Default: the one before."),
    ] = None,
    as_json: flags.Json = False,
) -> None:
    """Make an earlier version's contents live again, as a new version."""
    from shoal.formats.history import roll_back

    manifest = roll_back(index, version)
    if as_json:
        write_json({"index": manifest.name, "version": manifest.version,
                    "n_passages": manifest.n_live})  # fmt: skip
        return
    write(
        f"index {manifest.name!r} version {manifest.version} is live: "
        f"{counted(manifest.n_live, 'passage')}"
    )
    write("a running cluster takes it with: shoal reload")


def prune(
    *,
    index: flags.IndexDir,
    keep: Annotated[
        int, typer.Option("--keep", min=1, help="Versions to keep, the live one included.")
    ] = 1,
    as_json: flags.Json = False,
) -> None:
    """Remove old versions and the files that only they list.

    The live version stays, and so does what a cluster of this machine serves.
    """
    from shoal.formats.history import prune_versions

    pruned = prune_versions(index, keep=keep, pinned=served_versions(index))
    if as_json:
        write_json(dataclasses.asdict(pruned))
        return
    removed = ", ".join(map(str, pruned.removed)) or "none"
    write(
        f"removed versions: {removed}; {counted(pruned.n_files, 'file')}, "
        f"{pruned.n_bytes / 1e6:,.1f} MB; kept: {', '.join(map(str, pruned.kept))}"
    )


def register(app: typer.Typer) -> None:
    """Put the commands into `shoal index`."""
    for command in (versions, rollback, prune):
        app.command()(command)
