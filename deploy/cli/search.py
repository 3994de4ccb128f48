"""`shoal search`: ask one question. Works in the bare install."""

import dataclasses
import shutil
import textwrap
from typing import TYPE_CHECKING, Annotated

import typer

from deploy.cli import flags
from deploy.cli.credentials import credentials_for, with_credentials
from deploy.cli.output import counted, write, write_json
from shoal.credentials import Credentials
from shoal.rpc.deadline import DEFAULT_TIMEOUT_S

if TYPE_CHECKING:
    from shoal.answers import Answer
    from shoal.requests import SearchOptions


@with_credentials
def search(
    text: Annotated[str, typer.Argument(help="The question.", show_default=False)],
    *,
    k: Annotated[int, typer.Option("-k", help="Hits wanted, 1 to 1,000.")] = 5,
    target: flags.Target = None,
    index: flags.IndexName = "",
    n_probe: flags.NProbe = None,
    oversample: flags.Oversample = None,
    exact: flags.Exact = False,
    min_coverage: Annotated[
        float | None,
        typer.Option("--min-coverage", help="Least share of the passages to search, 0 to 1."),
    ] = None,
    offset: Annotated[int | None, typer.Option("--offset", help="Hits to skip.")] = None,
    score_threshold: Annotated[
        float | None, typer.Option("--score-threshold", help="Leave out hits that score lower.")
    ] = None,
    target_recall: flags.TargetRecall = None,
    timeout_s: flags.Timeout = DEFAULT_TIMEOUT_S,
    name: flags.GivenName = None,
    as_json: flags.Json = False,
    given: Credentials,
) -> None:
    """Ask a running cluster one question."""
    from shoal.client import Client

    options: SearchOptions = {
        "k": k,
        "index": index,
        "n_probe": n_probe,
        "oversample": oversample,
        "exact": exact or None,
        "min_coverage": min_coverage,
        "offset": offset,
        "score_threshold": score_threshold,
        "target_recall": target_recall,
    }
    address = flags.find_target(target, name)
    shown = credentials_for(address, given, name)
    with Client(address, token=shown.token, tls=shown.tls) as client:
        answer = client.search(text, timeout_s=timeout_s, **options)
    if as_json:
        write_json(dataclasses.asdict(answer))
    else:
        show_answer(answer)


def show_answer(answer: "Answer") -> None:
    """Writes hits with their text, and one line on how they were found."""
    from shoal.answers import Accuracy, Outcome

    width = min(100, shutil.get_terminal_size((100, 24)).columns)
    for rank, hit in enumerate(answer.hits, start=1):
        write(
            f"{rank:>3}. {hit.score:.4f}  {hit.title or hit.id}" + f"  [{hit.id}]" * bool(hit.title)
        )
        for paragraph in hit.text.splitlines():
            write(
                textwrap.fill(paragraph, width, initial_indent="     ", subsequent_indent="     ")
            )
        write()
    how = f"n_probe {answer.n_probe}, " if answer.n_probe else ""
    if answer.candidates:
        how += f"{counted(answer.candidates, 'candidate')} rescored"
    elif answer.hits and all(hit.accuracy is Accuracy.EXACT for hit in answer.hits):
        how += "every vector " + ("compared" if answer.coverage == 1 else "that was there compared")
    else:
        how += "not rescored"
    timings = answer.timings
    write(
        f"{counted(len(answer.hits), 'hit')} from {answer.index} version {answer.version}, "
        f"coverage {answer.coverage:.4g}; {how}; {timings.total_ms:.1f} ms "
        f"(encode {timings.encode_ms:.1f}, search {timings.search_ms:.1f}, "
        f"fetch {timings.fetch_ms:.1f})"
    )
    if answer.query_truncated:
        write("note: the question was longer than the encoder reads, and was cut")
    for shard in answer.shards:
        if shard.outcome is not Outcome.OK:
            write(f"note: shard {shard.shard} is {shard.outcome}: {shard.detail}")
