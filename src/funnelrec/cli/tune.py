"""``funnelrec tune``: a search for a model's settings on validation pairs."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Annotated, Literal

import typer

from funnelrec.cli.options import DatasetFolder, ModelName, Preset, Threads, TrainingDevice
from funnelrec.cli.output import examples, say, say_memory

NAME = "tune"
EXAMPLES = examples(
    "funnelrec tune DATASET --model itemknn --trials 20 --out search/itemknn",
    "funnelrec tune DATASET --model rmbrec --trials 10 --out search/rmbrec --set epochs=50",
    "funnelrec tune DATASET --model ease --trials 8 --out search/new --slice discovery",
)


def command(
    dataset: DatasetFolder,
    model: ModelName,
    trials: Annotated[
        int, typer.Option(min=1, help="Trials the folder shall hold in the end; failed ones count.")
    ],
    out: Annotated[Path, typer.Option(help="Folder of the search.")],
    metric: Annotated[
        str, typer.Option(help="What to maximise on validation, like ndcg@10 or hr@20.")
    ] = "ndcg@10",
    slice_name: Annotated[
        Literal["overall", "conversion", "discovery"],
        typer.Option("--slice", help="Slice whose metric is maximised."),
    ] = "overall",
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="A setting that all trials have and that is not searched; may be repeated.",
        ),
    ] = None,
    preset: Preset = None,
    seed: Annotated[int, typer.Option(help="Decides the trials and every model's draws.")] = 0,
    device: TrainingDevice = "auto",
    threads: Threads = None,
) -> None:
    """Search settings on validation pairs, every trial kept; test pairs are never seen.

    Trial 0 is the model's own settings. A search that was interrupted or killed goes on with the
    same command, without repeating a finished trial; more --trials go on from fewer.
    """
    import torch

    from funnelrec.common.config import parse_assignments
    from funnelrec.common.memory import prefer_huge_pages
    from funnelrec.comparison.search import Trial, tune
    from funnelrec.data.dataset import Dataset
    from funnelrec.data.sizes import Sizes
    from funnelrec.models import create_model, registry
    from funnelrec.models.memory import check_training

    prefer_huge_pages()
    if threads is not None:
        torch.set_num_threads(threads)
    given = parse_assignments(settings or [])
    first = create_model(model, config=given, preset=preset, seed=seed, device=device)
    say_memory(check_training(first, Sizes.read(dataset), what=f"a search of settings of {model}"))

    def shown(trial: Trial) -> None:
        chosen = ", ".join(f"{name}={_short(value)}" for name, value in trial.searched.items())
        reached = f"failed: {trial.error}" if trial.value is None else f"{trial.value:.4f}"
        say(f"trial {trial.number}: {reached} in {trial.seconds:.1f} s ({chosen})", stderr=True)

    found = tune(
        model,
        Dataset.load(dataset),
        out,
        trials=trials,
        metric=metric,
        slice_name=slice_name,
        settings=given,
        preset=preset,
        seed=seed,
        device=device,
        report=shown,
    )
    best = found.best
    say(f"{model}, best of {len(found.trials)} trials on {found.slice_name} validation users")
    for part, values in best.metrics.items():
        listed = ", ".join(f"{m} {'-' if v is None else f'{v:.4f}'}" for m, v in values.items())
        say(f"{part}: {listed}")
    say(f"trials: {out}")
    # Against the model's defaults: a search may have begun from a preset, which is not named.
    default = registry.get(model).Settings().model_dump(mode="json")
    words = ["funnelrec", "train", str(dataset), "--model", model, "--out", "RUN"]
    words += ["--seed", str(best.seed), "--refit"]
    for key, value in best.settings.items():
        if key not in default or default[key] != value:
            words += ["--set", f"{key}={json.dumps(value)}"]
    say(f"next: {shlex.join(words)}")


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
