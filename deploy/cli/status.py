"""`shoal status`: one screen of a cluster, once or again every second."""

import asyncio
import contextlib
import dataclasses
import json
import sys
import time
from collections.abc import Callable, Iterator
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
    with _asking(name, given) as ask:
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


@contextlib.contextmanager
def _asking(name: str, given: Credentials) -> Iterator[Callable[[], Asked]]:
    """A function that asks the cluster of that name anew each time."""
    state = flags.running_cluster(name)
    credentials = completed(state, given)
    if state.on == "ray":
        from deploy.ray.connection import connected
        from deploy.ray.screen import ray_screen
        from deploy.ray.status import connected_status

        def ask_ray() -> Asked:
            report = connected_status(state, credentials)
            return ray_screen(report), {**dataclasses.asdict(report), "healthy": report.healthy}

        with connected(state.ray_address):
            yield ask_ray
        return
    from deploy.load import Looks
    from deploy.status import cluster_status
    from deploy.status_screen import local_screen

    looks = Looks()

    def ask() -> Asked:
        # read again: pids change as processes are restarted
        report = asyncio.run(cluster_status(flags.running_cluster(name), credentials, looks))
        return local_screen(report), {**dataclasses.asdict(report), "healthy": report.healthy}

    yield ask


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
