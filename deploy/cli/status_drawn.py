"""A status screen drawn by rich: its tables, their colours, and nothing about clusters."""

from itertools import groupby

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from deploy.status_screen import HEADERS, Line, Node, Screen, cells

_NUMBERS = {"pid", "restarts", "in flight", "queued", "qps"}


def drawn(screen: Screen) -> RenderableType:
    """The whole screen; green is well, red is what somebody must look at."""
    facts = Table.grid(padding=(0, 2))
    for what, value in screen.facts:
        facts.add_row(Text(what, style="dim"), Text(value))
    parts: list[RenderableType] = [facts]
    if screen.nodes:
        parts.append(_nodes(screen.nodes))
    parts.append(_processes(screen.lines))
    parts += [Text(note, style="yellow") for note in screen.notes]
    colour = "green" if screen.is_well else "red"
    return Panel(Group(*parts), title=Text(screen.heading), title_align="left", border_style=colour)


def _nodes(nodes: tuple[Node, ...]) -> Table:
    table = Table("node", box=None, header_style="dim", padding=(0, 1))
    for header in ("processes", "CPUs", "GPUs"):
        table.add_column(header, justify="right")
    for node in nodes:
        table.add_row(node.address, str(node.n_processes), node.cpus, node.gpus)
    return table


def _processes(lines: tuple[Line, ...]) -> Table:
    table = Table(box=None, header_style="dim", padding=(0, 1))
    for header in HEADERS:
        # addresses and reasons give way first where the terminal is narrow
        table.add_column(
            header,
            justify="right" if header in _NUMBERS else "left",
            no_wrap=header != "router says",
        )
    for _, group in groupby(lines, key=lambda line: line.part):
        members = list(group)
        for line in members:
            style = "" if line.is_well else "red"
            texts = [Text(str(cell), style=style) for cell in cells(line)]
            if line.is_well:
                texts[HEADERS.index("health")].stylize("green")
            table.add_row(*texts, end_section=line is members[-1])
    return table
