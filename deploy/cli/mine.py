"""`shoal mine`: hard negatives for training, by BM25 and by a running cluster."""

from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from deploy.cli import flags
from deploy.cli.credentials import credentials_for, with_credentials
from deploy.cli.output import counted, progress, write, write_json
from shoal.credentials import Credentials
from shoal.errors import ConfigError

_SOURCES = ("cluster", "bm25")


@with_credentials
def mine(
    *,
    data: Annotated[
        str,
        typer.Option("--data", metavar="SOURCE", help="A BEIR folder (or QUESTIONS,CORPUS), or "
                     "DPR's .json with positive_ctxs."),
    ],
    out: Annotated[Path, typer.Option("--out", help="The DPR .json to write.")],
    corpus: Annotated[
        str | None,
        typer.Option("--corpus", help="What BM25 searches. Default: the folder's own."),
    ] = None,
    by: Annotated[
        list[str] | None,
        typer.Option("--by", metavar="[cluster|bm25]", help="Who proposes; may be given twice. "
                     "Default: both, in turn."),
    ] = None,
    n_negatives: Annotated[
        int, typer.Option("--negatives", min=1, help="Hard negatives a question, at most.")
    ] = 8,
    depth: Annotated[
        int, typer.Option("--depth", min=1, max=1000, help="Hits looked at, of each proposer.")
    ] = 100,
    margin: Annotated[
        float | None,
        typer.Option("--margin", help="Leave out what the cluster scores above the positive's "
                     "score less this. Default: 0."),
    ] = None,
    no_margin: Annotated[
        bool, typer.Option("--no-margin", help="Leave nothing out for its score.")
    ] = False,
    batch: Annotated[int, typer.Option("--batch", min=1, max=1024, help="Questions a call.")] = 64,
    restart: flags.Restart = False,
    target: flags.Target = None,
    index: flags.IndexName = "",
    n_probe: flags.NProbe = None,
    exact: flags.Exact = False,
    timeout_s: flags.Timeout = 60.0,
    name: flags.GivenName = None,
    as_json: flags.Json = False,
    given: Credentials,
) -> None:  # fmt: skip
    """Find passages that look right and are wrong, and write them as DPR's training data.

    A killed run goes on where it was when the same command is given again.
    """
    from deploy.mining.run import MiningPlan
    from deploy.mining.run import mine as run
    from deploy.mining.work import SUFFIX
    from shoal.client import Client

    sources = tuple(dict.fromkeys(by or _SOURCES))
    if strange := [source for source in sources if source not in _SOURCES]:
        raise typer.BadParameter(f"--by {strange[0]}: known are {' and '.join(_SOURCES)}")
    if margin is not None and no_margin:
        raise typer.BadParameter("--margin and --no-margin contradict each other; give one of them")
    if "cluster" not in sources:
        of_cluster = {"--margin": margin is not None, "--no-margin": no_margin,
                      "--index": bool(index), "--n-probe": n_probe is not None,
                      "--exact": exact, "--target": target is not None}  # fmt: skip
        if useless := [flag for flag, is_given in of_cluster.items() if is_given]:
            raise typer.BadParameter(
                f"{', '.join(useless)}: only of --by cluster, and BM25 alone was asked for"
            )
    questions, _, own_corpus = data.partition(",")
    if not own_corpus and Path(questions).is_dir():
        own_corpus = questions
    if not restart and out.exists() and not out.with_name(out.name + SUFFIX).exists():
        raise ConfigError(f"{out} is there already; choose another --out, or give --restart")
    plan = MiningPlan(
        data=Path(questions),
        out=out,
        corpus=corpus or own_corpus,
        sources=sources,
        n_negatives=n_negatives,
        depth=depth,
        margin=None if no_margin else margin or 0.0,
        batch=batch,
        timeout_s=timeout_s,
        restart=restart,
        options={"index": index, "n_probe": n_probe, "exact": exact or None},
    )
    opened: nullcontext[None] | Client = nullcontext()
    if "cluster" in sources:
        address = flags.find_target(target, name)
        shown = credentials_for(address, given, name)
        opened = Client(address, token=shown.token, tls=shown.tls)
    with progress() as show, opened as client:
        mined = run(plan, client, show)
    if as_json:
        write_json({
            "out": str(out), "n_questions": mined.n_questions, "n_kept": mined.n_kept,
            "n_without_negatives": mined.n_without, "n_negatives": dict(mined.n_negatives),
            "left_out": dict(mined.left_out),
        })  # fmt: skip
        return
    by_source = ", ".join(f"{n:,} by {source}" for source, n in mined.n_negatives.items())
    left_out = ", ".join(f"{n:,} {reason}" for reason, n in sorted(mined.left_out.items()))
    write(
        f"{counted(mined.n_questions, 'question')}: hard negatives {by_source or 'none'}; left out "
        f"{left_out or 'nothing'}; {mined.n_without:,} questions without any"
    )
    write(f"train with: shoal train --data {out} --out FOLDER")
