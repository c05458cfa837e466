"""``funnelrec train``: a model trained on a prepared data set, as a run folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from funnelrec.cli.options import DatasetFolder, ModelName, Preset, Threads, TrainingDevice
from funnelrec.cli.output import examples, say, say_memory

NAME = "train"
EXAMPLES = examples(
    "funnelrec train DATASET --model rmbrec --out runs/rmbrec",
    "funnelrec train DATASET --model rmbrec --out runs/paper --preset paper --seed 1 --refit",
    'funnelrec train DATASET --model charm --out runs/no-mi --variant "w/o MI"',
    "funnelrec train DATASET --model lightgcn --out runs/lightgcn --set layers=2 --set dim=32",
)


def command(
    dataset: DatasetFolder,
    model: ModelName,
    out: Annotated[Path, typer.Option(help="Run folder to write.")],
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="A setting of the model, see funnelrec models NAME; may be repeated.",
        ),
    ] = None,
    preset: Preset = None,
    variant: Annotated[
        str | None,
        typer.Option(help="Named change on top of it, such as a row of a paper's ablation."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Decides every random draw.")] = 0,
    device: TrainingDevice = "auto",
    refit: Annotated[
        bool,
        typer.Option(
            "--refit",
            help="Train once more on training plus validation pairs, with the number of epochs "
            "that validation selected; another protocol than without.",
        ),
    ] = False,
    threads: Threads = None,
    progress: Annotated[
        Literal["auto", "bar", "lines", "none"],
        typer.Option(help="What to show while training; auto: bars on a terminal, else lines."),
    ] = "auto",
    checkpoint_seconds: Annotated[
        float, typer.Option(min=0, hidden=True, help="Seconds between two checkpoints.")
    ] = 30.0,
) -> None:
    """Train a model and write a run folder.

    A run that was interrupted or killed goes on from its last checkpoint when the same command is
    given again, with the result of an uninterrupted run.
    """
    import torch

    from funnelrec.common.config import parse_assignments
    from funnelrec.common.memory import prefer_huge_pages
    from funnelrec.data.dataset import Dataset
    from funnelrec.data.sizes import Sizes
    from funnelrec.evaluation.evidence import EvidenceModel
    from funnelrec.models import create_model
    from funnelrec.models.memory import check_training
    from funnelrec.models.runs import CHECKPOINT, RECORD, train_run

    prefer_huge_pages()
    if threads is not None:
        torch.set_num_threads(threads)
    created = create_model(
        model,
        config=parse_assignments(settings or []),
        preset=preset,
        variant=variant,
        seed=seed,
        device=device,
    )
    if preset is None and "practical" in created.presets:
        say(
            f"note: {model} starts from the settings its paper prints; --preset practical has "
            "those that train well",
            stderr=True,
        )
    say_memory(check_training(created, Sizes.read(dataset), refit=refit))
    data = Dataset.load(dataset)
    if any(out.glob(f"*{CHECKPOINT}")) and not (out / RECORD).exists():
        say(f"resuming the unfinished run in {out}", stderr=True)
    run = train_run(
        data,
        created,
        out,
        source=dataset,
        refit=refit,
        progress=progress,
        checkpoint_seconds=checkpoint_seconds,
    )
    record, history = run.record, run.history
    say(f"{record.model}, seed {record.seed}, on {data.manifest.name} ({record.device})")
    if history is not None:
        say(f"best epoch: {history.best_epoch} of {len(history.records)} ({history.stopped})")
        if history.best_value is not None:
            say(f"validation {history.metric}: {history.best_value:.4f}")
    notes = getattr(run.model, "notes", ()) if history is None else history.notes
    for note in notes:
        say(f"note: {note}", stderr=True)
    if refit:
        say("refitted on training plus validation pairs")
    if isinstance(run.model, EvidenceModel):
        scale = None if run.calibration is None else run.calibration.confidence
        say(
            "confidence: not calibrated, too few validation purchases of touched items"
            if scale is None
            else f"confidence calibrated on validation: ECE {scale.before.ece:.4f} -> "
            f"{scale.after.ece:.4f}, Brier {scale.before.brier:.4f} -> {scale.after.brier:.4f}"
        )
    say(f"seconds: {record.seconds:.1f}")
    say(f"run: {out}")
    say(f"next: funnelrec evaluate {out}")
    if isinstance(run.model, EvidenceModel):
        say(f"next: funnelrec hesitations {out} --out hesitations.parquet")
