"""`shoal index add`: more passages for an index that is there."""

import itertools
import time
from typing import Annotated

import typer

from deploy.cli import flags
from deploy.cli.output import counted, progress, write, write_json
from deploy.cli.unfinished import telling_what_is_kept
from shoal.errors import ConfigError


def add(
    *,
    corpus: Annotated[
        list[str],
        typer.Option(
            "--corpus",
            metavar="PATH",
            help="As for build; its ids must be new to the index. May be given several times.",
        ),
    ],
    index: flags.IndexDir,
    model: Annotated[
        str | None, typer.Option("--model", help="The encoder's model. Default: the index's own.")
    ] = None,
    device: Annotated[
        str, typer.Option("--device", help="Where to encode: auto, cpu or cuda:N.")
    ] = "auto",
    replace: Annotated[
        bool,
        typer.Option("--replace", help="Supersede passages whose ids are there; CPU alone serves."),
    ] = False,
    restart: flags.Restart = False,
    as_json: flags.Json = False,
) -> None:
    """Make a new version of an index with more passages; nothing is encoded again."""
    from deploy.cli.sources import absolute_model, load_passage_encoder
    from shard_server.building.add import add_passages
    from shard_server.building.read import read_corpus
    from shoal.formats.versions import load_manifest

    live = load_manifest(index)
    if live.encoder is None:
        raise ConfigError(f"index {live.name!r} is one of bare vectors; text can't be added to it")
    begun_s = time.monotonic()
    model = absolute_model(model or live.encoder.model)
    encoder, whole = load_passage_encoder(model, device, keep_float32=bool(live.float32))
    passages = itertools.chain.from_iterable(read_corpus(source) for source in corpus)
    with telling_what_is_kept(index), progress() as show:
        manifest = add_passages(
            index,
            passages,
            encoder,
            show,
            replace_known=replace,
            restart=restart,
            keep_float32=whole,
        )
    took_s = time.monotonic() - begun_s
    n_added = manifest.n_rows - live.n_rows
    if as_json:
        write_json({
            "index": manifest.name,
            "version": manifest.version,
            "n_added": n_added,
            "n_replaced": n_added - (manifest.n_live - live.n_live),
            "n_passages": manifest.n_live,
            "seconds": round(took_s, 1),
        })  # fmt: skip
        return
    write(
        f"index {manifest.name!r} version {manifest.version}: {counted(n_added, 'passage')} added, "
        f"{n_added - (manifest.n_live - live.n_live):,} of them in place of others, "
        f"{manifest.n_live:,} in all, in {took_s:.1f} s"
    )
    write("a running cluster takes it with: shoal reload")
