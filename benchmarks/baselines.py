"""The multi-behavior baselines of both papers, one training each, beside what the papers print.

    python benchmarks/baselines.py run       # every model on every data set (FUNNELREC_DATA=folder)
    python benchmarks/baselines.py table     # rewrites the tables in docs/reproduction.md

Seed 0, the preset ``practical`` where a model has one, its defaults otherwise; the epoch is
selected on validation, training is not refitted. Each training has a process of its own and a
budget of processor time (``--minutes``), of which graphs, pre-training and validations are part:
the epoch that passes it is the last, unless the model stops earlier by itself. Each finished
training is one line in benchmarks/results/baselines.jsonl; a second call repeats none of them.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from typing import Any, cast

import numpy as np
import torch

from funnelrec.common.memory import prefer_huge_pages
from funnelrec.common.peak_memory import peak_memory
from funnelrec.comparison.published import published_figures
from funnelrec.data.dataset import Dataset
from funnelrec.evaluation import evaluate
from funnelrec.evaluation.protocol import current_versions
from funnelrec.models import FitOptions, create_model, registry
from funnelrec.models.gradient import GradientRecommender
from reproduction import PAGE, ROOT, append, between, finished, key_of, load, machine

RESULTS = ROOT / "benchmarks/results/baselines.jsonl"
DATASETS = ("taobao15k", "tmall41k_no_view")
# Rows that both papers' lists are read beside come first.
MODELS = (
    "lightgcn",
    "rmbrec",
    "nmtr",
    "mbgcn",
    "cml",
    "rcl",
    "pkef",
    "copf",
    "crgcn",
    "mb_cgcn",
    "bcipm",
    "s_mbrec",
    "mbssl",
    "uipl",
)
# The penalty of CHARM's Fig. 5 on models of that figure.
PENALISED = ("mbgcn", "cml")
PENALTY = 0.2
# A training may take a quarter of an hour of one core.
MINUTES = 15.0
# Without the training that comes before the first epoch, where only parameters are counted.
_UNTRAINED: dict[str, dict[str, Any]] = {
    "mb_cgcn": {"pretrain_epochs": 0},
    "mbgcn": {"pretraining": 0},
}


def settings_of(model: str, penalty: float) -> dict[str, Any]:
    """Return how a model is made."""
    settings: dict[str, Any] = {}
    if "practical" in registry.get(model).presets:
        settings["preset"] = "practical"
    if model == "rmbrec":
        # One batch a propagation, as in the papers whose rows stand beside it.
        settings["preset"] = "single"
    if penalty:
        settings["substitution_weight"] = penalty
    return settings


def key(dataset: Dataset, model: str, penalty: float, device: str) -> str:
    """Return what identifies a training."""
    config = create_model(model, **settings_of(model, penalty)).config.model_dump(mode="json")
    # Rows of a card stand beside those of two cores, not in their place.
    card = {} if device == "cpu" else {"device": device}
    return key_of(fingerprint=dataset.fingerprint, model=model, settings=config, seed=0, **card)


def one(name: str, model: str, penalty: float, minutes: float, device: str) -> None:
    """Train one model and append its line."""
    dataset = load(name)
    if dataset is None:
        return
    given = settings_of(model, penalty)
    clock = time.process_time if device == "cpu" else time.monotonic
    made = cast(
        "GradientRecommender[Any, Any]", create_model(model, **given, seed=0, device=device)
    )
    began, marks = clock(), list[float]()

    def stop() -> bool:
        marks.append(clock())
        return marks[-1] - began > 60 * minutes

    made.fit(dataset, FitOptions(stop=stop))
    spent = clock() - began
    # The first epoch also warms up, and a pre-training or a graph comes before it.
    epoch_seconds = float(np.median(np.diff(marks))) if len(marks) > 1 else spent
    peak = peak_memory() or 0
    made_again = create_model(model, **{**given, **_UNTRAINED.get(model, {})}, seed=0)
    network = cast("GradientRecommender[Any, Any]", made_again).network(
        dataset.training, torch.Generator().manual_seed(0)
    )
    parameters = sum(part.numel() for part in network.parameters() if part.requires_grad)
    del network
    names = ("users", "hr@10", "ndcg@10")
    found = {
        split: {
            line: {metric: values[metric] for metric in names}
            for line, values in evaluate(
                made, dataset, split=split, beyond_accuracy=False
            ).slices.items()
        }
        for split in ("validation", "test")
    }
    done = len(made.history.records)
    append(
        RESULTS,
        {
            "key": key(dataset, model, penalty, device),
            "device": device,
            "dataset": name,
            "model": model,
            "penalty": penalty,
            "preset": given.get("preset", "default"),
            "settings": made.config.model_dump(mode="json"),
            "seed": 0,
            "minutes": minutes,
            "epochs": done,
            "best_epoch": made.history.best_epoch,
            "ended_by_budget": made.history.stopped.startswith("told"),
            "seconds": round(spent, 1),
            "epoch_seconds": round(epoch_seconds, 2),
            "setup_seconds": round(max(0.0, marks[0] - began - epoch_seconds), 1),
            "parameters": parameters,
            "peak_memory_mib": peak // 2**20,
            "threads": torch.get_num_threads(),
            "versions": current_versions(),
            "machine": machine(device),
            **found,
        },
    )
    overall = found["test"]["overall"]
    print(
        f"{name} {model}{f', penalty {penalty:g}' * bool(penalty)}: HR@10 {overall['hr@10']:.4f} "
        f"NDCG@10 {overall['ndcg@10']:.4f}, epoch {made.history.best_epoch} of {done}, "
        f"{spent:.0f} s",
        flush=True,
    )


def run(models: list[str], datasets: list[str], minutes: float, device: str) -> None:
    """Train what is missing, each in a process of its own."""
    for name in datasets:
        dataset = load(name)
        if dataset is None:
            continue
        for model in models:
            for penalty in (0.0, PENALTY) if model in PENALISED else (0.0,):
                if key(dataset, model, penalty, device) in finished(RESULTS):
                    continue
                command = [sys.executable, __file__, "one", "--datasets", name, "--models", model]
                command += ["--penalty", str(penalty), "--minutes", str(minutes)]
                # One model that fails does not keep the others from being measured.
                if subprocess.run([*command, "--device", device], check=False).returncode:
                    print(f"{name} {model}: failed", flush=True)


def table() -> None:
    """Rewrite the tables between the markers of the page."""
    rows = list(finished(RESULTS).values())
    text = PAGE.read_text()
    for name in DATASETS:
        here = [row for row in rows if row["dataset"] == name]
        text = between(text, f"baselines {name}", _figures(name, here))
    text = between(text, "baselines cost", _cost(rows))
    PAGE.write_text(text)


def _title(row: dict[str, Any]) -> str:
    parts = [row["model"]]
    if row["preset"] != "default":
        parts.append(row["preset"])
    # A preset may have been another when the line was written.
    now = create_model(row["model"], **settings_of(row["model"], row["penalty"])).config
    known = now.model_dump(mode="json")
    parts += [
        f"{name}={value:g}" if isinstance(value, float) else f"{name}={value}"
        for name, value in row["settings"].items()
        if name != "epochs" and known.get(name) != value
    ]
    if row["penalty"]:
        parts.append(f"penalty {row['penalty']:g}")
    return ", ".join(parts)


def _ordered(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(
        rows,
        key=lambda row: (MODELS.index(row["model"]), row["penalty"], _on_a_card(row)),
    )


def _on_a_card(row: dict[str, Any]) -> bool:
    # The first lines were written before a card was an option.
    return bool(row.get("device", "cpu") != "cpu")


def _figures(name: str, rows: list[dict[str, Any]]) -> str:
    lines = [
        "| model | trained on | published HR@10 / NDCG@10 | overall | conversion | discovery "
        "| validation | epoch |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in _ordered(rows):
        cells = [_pair(row["test"][part]) for part in ("overall", "conversion", "discovery")]
        ended = ", ended by the budget" if row["ended_by_budget"] else ""
        where = "a card" if _on_a_card(row) else "a core"
        lines.append(
            f"| {_title(row)} | {where} | {'' if row['penalty'] else _printed(name, row['model'])} "
            f"| {' | '.join(cells)} | {_pair(row['validation']['overall'])} "
            f"| {row['best_epoch']} of {row['epochs']}{ended} |"
        )
    return "\n".join(lines)


def _printed(name: str, model: str) -> str:
    found = [
        f"{row.values['hr@10']:.4f} / {row.values['ndcg@10']:.4f} ({row.source})"
        for row in published_figures()
        if row.model == model and name in row.datasets and row.variant is None
    ]
    return "; ".join(found) or "-"


def _cost(rows: list[dict[str, Any]]) -> str:
    # What stood beside others on one card has no seconds of its own.
    rows = [row for row in rows if not row.get("side_by_side")]
    lines = [
        "| model | data set | parameters | processor seconds an epoch | before the first "
        "| in all | peak memory, MiB | machine |",
        "|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {_title(row)} | {row['dataset']} | {row['parameters']:,} "
        f"| {row.get('epoch_seconds', row['seconds'] / row['epochs']):.1f} "
        f"| {_before(row)} | {row['seconds']:.0f} "
        f"| {row['peak_memory_mib']:,} | {row['machine']}, {row['threads']} thread |"
        for name in DATASETS
        for row in _ordered([row for row in rows if row["dataset"] == name])
    ]
    return "\n".join(lines)


def _before(row: dict[str, Any]) -> str:
    return f"{row['setup_seconds']:.0f}" if "setup_seconds" in row else "not told apart"


def _pair(values: dict[str, float]) -> str:
    return f"{values['hr@10']:.4f} / {values['ndcg@10']:.4f}"


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("step", choices=["run", "one", "table"])
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--datasets", default=",".join(DATASETS))
    parser.add_argument("--penalty", type=float, default=0.0)
    parser.add_argument("--minutes", type=float, default=MINUTES)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    prefer_huge_pages()
    models, datasets = arguments.models.split(","), arguments.datasets.split(",")
    if arguments.step == "table":
        table()
    elif arguments.step == "one":
        one(datasets[0], models[0], arguments.penalty, arguments.minutes, arguments.device)
    else:
        run(models, datasets, arguments.minutes, arguments.device)


if __name__ == "__main__":
    main()
