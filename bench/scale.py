"""`make bench-scale`: what a fan-out to 16, 64 and 256 shards costs, by simulation.

Prints the table, and writes it with its plot into docs/scale.md and docs/scale.png. What is
modelled stands in `scale_model` and in that page.
"""

import argparse
import concurrent.futures
from collections.abc import Sequence
from pathlib import Path

from bench.scale_model import Cell, Figures, simulate

DOCS = Path(__file__).resolve().parents[1] / "docs"
BEGIN, END = "<!-- bench-scale: begin -->", "<!-- bench-scale: end -->"
N_QUERIES = {16: 1_500, 64: 600, 256: 300}
KINDS = (("calls", 0.1), ("calls", 0.3), ("replicas", 0.1))
"""What is slow, and how busy replicas are."""
WAYS = ((False, False), (True, False), (False, True), (True, True))
HEADER = (
    "| slow | load | shards | hedging | adaptive wait | p50 ms | p99 ms | mean coverage "
    "| complete answers | extra calls |\n|---|--:|--:|---|---|--:|--:|--:|--:|--:|"
)


def cells(scale: float) -> list[Cell]:
    """Every setting; the largest first, so that processes end together."""
    return [
        Cell(
            n_shards=n_shards,
            slow=slow,
            load=load,
            hedging=hedging,
            adaptive=adaptive,
            n_queries=max(20, round(n_queries * scale)),
        )
        for n_shards, n_queries in sorted(N_QUERIES.items(), reverse=True)
        for slow, load in KINDS
        for hedging, adaptive in WAYS
    ]


def table(figures: Sequence[Figures]) -> str:
    """Markdown, in the order of kind, size and way. Pure."""
    order = {cell: number for number, cell in enumerate(_ordered(figures))}
    return "\n".join([HEADER, *(_line(f) for f in sorted(figures, key=lambda f: order[f.cell]))])


def _ordered(figures: Sequence[Figures]) -> list[Cell]:
    return sorted(
        (f.cell for f in figures),
        key=lambda c: (
            KINDS.index((c.slow, c.load)),
            c.n_shards,
            WAYS.index((c.hedging, c.adaptive)),
        ),
    )


def _line(figures: Figures) -> str:
    cell = figures.cell
    return (
        f"| {cell.slow} | {cell.load:.0%} | {cell.n_shards} "
        f"| {_yes(cell.hedging)} | {_yes(cell.adaptive)} "
        f"| {figures.p50_s * 1e3:.1f} | {figures.p99_s * 1e3:.0f} | {figures.coverage:.4f} "
        f"| {figures.complete:.1%} | {figures.extra_calls:.1%} |"
    )


def _yes(is_on: object) -> str:
    return "yes" if is_on else "-"


def with_block(page: str, block: str) -> str:
    """The page with what stands between the markers replaced. Pure."""
    before, found_begin, rest = page.partition(BEGIN)
    _, found_end, after = rest.partition(END)
    if not found_begin or not found_end:
        raise SystemExit(f"docs/scale.md has no {BEGIN} ... {END} to write between")
    return f"{before}{BEGIN}\n{block}\n{END}{after}"


def _setting(cell: Cell) -> tuple[str, float, bool, bool]:
    return cell.slow, cell.load, cell.hedging, cell.adaptive


def draw(path: Path, figures: Sequence[Figures]) -> None:
    """p50 (dotted) and p99 by the number of shards, one panel a kind of slowness."""
    from matplotlib.figure import Figure  # noqa: PLC0415 -- an optional extra

    figure = Figure(figsize=(12, 4), layout="constrained")
    panels = figure.subplots(1, len(KINDS), sharey=True)
    names = ("neither", "hedging", "adaptive wait", "both")
    for panel, kind in zip(panels, KINDS, strict=True):
        title = f"1 % of {kind[0]} 10 times slower, load {kind[1]:.0%}"
        for number, (way, name) in enumerate(zip(WAYS, names, strict=True)):
            wanted = (*kind, *way)
            line = sorted(
                (f for f in figures if _setting(f.cell) == wanted), key=lambda f: f.cell.n_shards
            )
            sizes = [f.cell.n_shards for f in line]
            panel.plot(sizes, [f.p99_s * 1e3 for f in line], "o-", color=f"C{number}", label=name)
            panel.plot(sizes, [f.p50_s * 1e3 for f in line], "o:", color=f"C{number}")
        panel.set(title=title, xscale="log", yscale="log", xlabel="shards")
        panel.set_xticks(sorted(N_QUERIES), [str(n) for n in sorted(N_QUERIES)])
        panel.minorticks_off()
        panel.grid(visible=True, alpha=0.3)
    panels[0].set_ylabel("ms: p99, p50 dotted")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper")
    figure.savefig(path, dpi=110)


def main() -> None:
    """Simulates, prints, writes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--processes", type=int, default=2, help="cells simulated at once")
    parser.add_argument("--scale", type=float, default=1.0, help="more or fewer queries a cell")
    parser.add_argument("--dry-run", action="store_true", help="print, and write nothing")
    chosen = parser.parse_args()
    with concurrent.futures.ProcessPoolExecutor(chosen.processes) as pool:
        figures = list(pool.map(simulate, cells(chosen.scale)))
    block = table(figures)
    print(block)
    if not chosen.dry_run:
        page = DOCS / "scale.md"
        page.write_text(with_block(page.read_text(encoding="utf-8"), block), encoding="utf-8")
        draw(DOCS / "scale.png", figures)


if __name__ == "__main__":
    main()
