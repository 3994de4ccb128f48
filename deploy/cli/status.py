"""`shoal status`: one screen of a cluster, once or again every second."""

import asyncio
import dataclasses
import json
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deploy.cli import flags
from deploy.cli.credentials import completed, with_credentials
from deploy.cli.output import rounded, write, write_json, write_table
from shoal.credentials import Credentials
from shoal.errors import UnavailableError

if TYPE_CHECKING:
    from deploy.status_screen import Screen

EVERY_S = 1.0

Asked = tuple["Screen", dict[str, Any]]
"""What to show, and the same for programs."""


@with_credentials
def status(
    *,
    name: flags.Name = flags.DEFAULT_NAME,
    watch: Annotated[
        bool, typer.Option("--watch", help="Show it again every second, until Ctrl-C.")
    ] = False,
    as_json: flags.Json = False,
    given: Credentials,
) -> None:
    """Show the cluster's processes: health, versions, load, and what its router says of them.

    Exit code 69 where something that should serve doesn't. --watch ends with Ctrl-C and code 0;
    with --json it writes one line a second.
    """
    ask = _asker(name, given)
    if watch:
        _watch(ask, as_json=as_json)
        return
    screen, report = ask()
    if as_json:
        write_json(report)
    else:
        show(screen)
    if not screen.is_well:
        raise typer.Exit(UnavailableError.exit_code)


def _asker(name: str, given: Credentials) -> Callable[[], Asked]:
    """A function that asks the cluster of that name each time anew."""
    from deploy.load import Looks
    from deploy.status import cluster_status
    from deploy.status_screen import local_screen

    flags.running_cluster(name)  # before anything slow
    looks = Looks()

    def ask() -> Asked:
        state = flags.running_cluster(name)
        report = asyncio.run(cluster_status(state, completed(state, given), looks))
        return local_screen(report), {**dataclasses.asdict(report), "healthy": report.healthy}

    return ask


def _watch(ask: Callable[[], Asked], *, as_json: bool) -> None:
    try:
        if as_json or not sys.stdout.isatty():
            while True:
                screen, report = ask()
                if as_json:
                    write(json.dumps(rounded(report), ensure_ascii=False, default=str))
                else:
                    show(screen)
                    write()
                time.sleep(EVERY_S)
        from rich.live import Live

        from deploy.cli.status_drawn import drawn

        with Live(drawn(ask()[0]), auto_refresh=False, screen=True) as live:
            while True:
                time.sleep(EVERY_S)
                live.update(drawn(ask()[0]), refresh=True)
    except KeyboardInterrupt:
        return


def show(screen: "Screen") -> None:
    """The screen on stdout: drawn on a terminal, plain tables elsewhere."""
    if sys.stdout.isatty():
        from rich.console import Console

        from deploy.cli.status_drawn import drawn

        Console().print(drawn(screen))
        return
    from deploy.status_screen import HEADERS, cells

    write(screen.heading)
    for what, value in screen.facts:
        write(f"{what}: {value}")
    if screen.nodes:
        write_table(
            ("node", "processes", "CPUs", "GPUs"),
            [(node.address, node.n_processes, node.cpus, node.gpus) for node in screen.nodes],
        )
    write_table(HEADERS, [cells(line) for line in screen.lines])
    for note in screen.notes:
        write(note)
