"""`shoal bench compare`: two runs side by side, and an exit code for whoever decides by it."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from deploy.cli import flags
from deploy.cli.bench_parse import share_of
from deploy.cli.output import write_json
from shoal.errors import VerdictError


def compare(
    first: Annotated[Path, typer.Argument(help="A run that --json wrote.")],
    second: Annotated[Path, typer.Argument(help="Another one, which may be worse.")],
    *,
    threshold: Annotated[
        str, typer.Option("--threshold", help="By how much a rate or a latency may be worse: 0.1, "
                          "or 10%.")
    ] = "10%",
    as_json: flags.Json = False,
) -> None:  # fmt: skip
    """Set two runs side by side, as ratios; exit code 1 where the second is worse."""
    from deploy.cli.bench_output import write_ratios
    from shoal.bench.compare import ratios_of
    from shoal.bench.record import read_record

    share = share_of(threshold)
    ratios = ratios_of(read_record(first), read_record(second), share)
    if as_json:
        write_json([{**asdict(ratio), "ratio": ratio.ratio} for ratio in ratios])
    else:
        write_ratios(ratios)
    worse = [f"{ratio.figure} at {ratio.stage}" for ratio in ratios if ratio.worse]
    if worse:
        raise VerdictError(f"{second} is worse than {first}: " + ", ".join(worse))
