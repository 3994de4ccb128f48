"""A comparison as Markdown: one table to read, and one with every figure. Pure."""

from collections.abc import Mapping, Sequence

from bench.serving.contest import P99_MS
from bench.serving.loads import FIELD, LOADS, NICENESS, K, Kind
from bench.serving.result import CUT_SHORT, Cell, Figures, Knee, Result, figures_of

NOTHING = "-"
NAMES = FIELD["text"]


def markdown(result: Result) -> str:
    """The page: what was compared, the table for the README, everything else, and the faults."""
    machine = result.circumstances.get("machine", {})
    where = f"{machine.get('cores', '?')} cores ({machine.get('processor', '?')})"
    parts = [
        f"{result.ground}. {where}, which servers and load generator share.",
        *([f"**Cut short**: {result.interruption}"] if result.interruption else []),
        short_table(result),
        legend(result),
        "## Every figure",
        full_table(result),
        "## Who they are",
        "\n".join(f"- **{name}**: {about}." for name, about in result.about.items()),
    ]
    if result.faults:
        parts += ["## Not to be trusted", "\n".join(f"- {fault}" for fault in result.faults)]
    if result.notes:
        parts.append("\n".join(f"- {note}" for note in result.notes))
    return "\n\n".join(parts) + "\n"


def short_table(result: Result) -> str:
    """The table for the README."""
    return table(["", *NAMES], summary_rows(result))


def summary_rows(result: Result) -> list[list[str]]:
    """A row a load, a column a contestant: queries a second, p50 / p99 in milliseconds; recall."""
    cells = {(cell.load, cell.contestant): cell for cell in result.cells}
    knees = {(knee.kind, knee.contestant): knee for knee in result.knees}
    rows = [[load.label, *(short(cells.get((load, name))) for name in NAMES)] for load in LOADS]
    for kind in ("text", "vector"):
        found = (knees.get((kind, name)) for name in NAMES)
        rows.append([f"{kind}, open loop: most with p99 ≤ {P99_MS:g} ms", *map(most, found)])
    for kind in ("text", "vector"):
        recalls = recall_by_name(result.cells, kind)
        rows.append([f"recall@{K}, {kind}", *(recalls.get(name, NOTHING) for name in NAMES)])
    return rows


def full_table(result: Result) -> str:
    """A row a cell, and a row a search for the highest rate."""
    names = ["load", "", "queries/s", "of rounds", "p50 ms", "p99 ms", f"recall@{K}", "failed",
             "generator's lag, busy"]  # fmt: skip
    rows = [full_row(cell) for cell in result.cells]
    rows += [_knee_row(knee) for knee in result.knees]
    return table(names, rows)


def full_row(cell: Cell) -> list[str]:
    """A cell's figures, or why it has none."""
    head = [cell.load.label, cell.contestant]
    if not cell.reports:
        return [*head, _why_none(cell.failure), *[NOTHING] * 6]
    found = figures_of(cell.reports)
    failed = cell.failure or errors(found)
    recall = NOTHING if found.recall is None else f"{found.recall:.3f}"
    rounds = f"{rate(found.least_per_s)} to {rate(found.most_per_s)}"
    own = f"{found.lag_share:.1%}, {found.busy:.0%}" + " **fault**" * bool(found.fault)
    return [*head, rate(found.queries_per_s), rounds, ms(found.p50_ms), p99(found), recall, failed,
            own]  # fmt: skip


def legend(result: Result) -> str:
    """How the short table is to be read."""
    rules = result.circumstances.get("rules", {})
    return (
        "Queries answered a second, and p50 / p99 in milliseconds of all calls; closed loops, "
        f"{rules.get('n_rounds', '?')} rounds of {rules.get('duration_s', '?')} s for each, in an "
        "order drawn anew. Open loop: the highest rate of evenly spaced calls, counted from the "
        "moment each was due. Servers run at nice "
        f"{NICENESS} and the load generator, which shares their cores, before them."
    )


def short(cell: Cell | None) -> str:
    """A cell in a few characters."""
    if cell is None:
        return NOTHING
    if not cell.reports:
        return NOTHING if cell.failure == CUT_SHORT else "failed"
    found = figures_of(cell.reports)
    marks = " (!)" if found.fault or cell.failure else ""
    n_bad = sum(found.errors.values()) + found.n_degraded
    if n_bad:
        marks += f", {n_bad / found.n_calls:.1%} failed"
    return f"{rate(found.queries_per_s)}/s, {ms(found.p50_ms)} / {p99(found)}{marks}"


def most(knee: Knee | None) -> str:
    """A highest rate in a few characters."""
    if knee is None:
        return NOTHING
    if knee.found is None:
        return NOTHING if knee.failure == CUT_SHORT else "failed"
    if knee.found.calls_per_s is None:
        return "none"
    return f"{'≥ ' if knee.found.why else ''}{rate(knee.found.calls_per_s)}/s"


def recall_by_name(cells: Sequence[Cell], kind: Kind) -> Mapping[str, str]:
    """Recall over all closed loops of a kind; load doesn't change it unless shards are missing."""
    found = {}
    for name in FIELD[kind]:
        reports = [report for cell in cells for report in cell.reports
                   if cell.load.kind == kind and cell.contestant == name]  # fmt: skip
        figures = figures_of(reports)
        if figures.recall is not None:
            found[name] = f"{figures.recall:.3f}"
    return found


def errors(found: Figures) -> str:
    """What failed, by code."""
    parts = [f"{n:,} {code}" for code, n in sorted(found.errors.items())]
    if found.n_degraded:
        parts.append(f"{found.n_degraded:,} with shards missing")
    return f"{', '.join(parts)} of {found.n_calls:,}" if parts else "0"


def rate(value: float) -> str:
    """A rate with as many digits as it has."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def ms(value: float) -> str:
    """Milliseconds, three digits."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def p99(found: Figures) -> str:
    """The p99, or "never"."""
    return "never" if found.p99_ms is None else ms(found.p99_ms)


def table(names: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; all but the first column to the right."""
    lines = ["| " + " | ".join(names) + " |", "|---" + "|--:" * (len(names) - 1) + "|"]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join(lines)


def _why_none(failure: str) -> str:
    return failure if failure == CUT_SHORT else f"failed: {failure}"


def _knee_row(knee: Knee) -> list[str]:
    head = [f"{knee.kind}, open loop, p99 ≤ {P99_MS:g} ms", knee.contestant]
    if knee.found is None:
        return [*head, _why_none(knee.failure), *[NOTHING] * 6]
    if knee.found.calls_per_s is None:
        return [*head, f"none: {knee.found.why}", *[NOTHING] * 6]
    met = [report for report in knee.reports if report.rate == knee.found.calls_per_s]
    met = [report for report in met if figures_of([report]).p99_ms is not None]
    found = figures_of(met[-1:])
    recall = NOTHING if found.recall is None else f"{found.recall:.3f}"
    return [*head, most(knee), knee.found.why or "met twice", ms(found.p50_ms), p99(found), recall,
            errors(found), f"{found.lag_share:.1%}, {found.busy:.0%}"]  # fmt: skip
