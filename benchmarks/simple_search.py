"""Search the settings of the strong simple models on validation pairs; no test pair is read.

Run from the repository with the benchmark files in FUNNELREC_DATA::

    python benchmarks/simple_search.py search --dataset taobao15k --work FOLDER
    python benchmarks/simple_search.py table

Every trial is one line in benchmarks/results/simple_search.jsonl. The work folder holds the
searches themselves: a second call goes on where the first one stopped.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
from pathlib import Path
from typing import Any

import torch

from funnelrec.common.memory import prefer_huge_pages
from funnelrec.comparison.search import Trial, tune
from funnelrec.evaluation import evaluate
from funnelrec.evaluation.protocol import current_versions
from funnelrec.models import create_model
from reproduction import append, finished, key_of, load

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks/results/simple_search.jsonl"
# A trial of ease is a Cholesky factor of all items; a counting rule needs few trials.
BUDGET = {"conversion": 10, "itemknn": 20, "rp3beta": 20, "ials": 20, "ease": 8}
METRIC = "ndcg@10"


def search(name: str, models: list[str], work: Path, trials: int | None) -> None:
    """Search every model and record its trials, then what the best one gives on new items."""
    dataset = load(name)
    if dataset is None:
        return
    training = dataset.training
    for model in models:

        def record(trial: Trial, model: str = model) -> None:
            row = {
                "key": key_of(dataset=name, model=model, number=trial.number),
                "dataset": name,
                "data": training.fingerprint,
                "model": model,
                **trial.model_dump(mode="json"),
                "threads": torch.get_num_threads(),
                "machine": f"{platform.machine()}, {os.cpu_count()} cores",
                "versions": dict(current_versions()),
            }
            append(RESULTS, row)
            shown = {part: values.get(METRIC) for part, values in trial.metrics.items()}
            print(model, trial.number, dict(trial.searched), shown, trial.seconds, flush=True)

        found = tune(
            model,
            training,
            work / name / model,
            trials=trials or BUDGET[model],
            metric=METRIC,
            device="cpu",
            report=record,
        )
        best = found.best
        key = key_of(dataset=name, model=model, best=best.number, of=len(found.trials))
        if key not in finished(RESULTS):
            fitted = create_model(model, config=best.settings, seed=best.seed, device="cpu")
            row = {"key": key, "dataset": name, "model": model, "settings": dict(best.settings)}
            append(RESULTS, {**row, **validated(fitted.fit(dataset), dataset)})


def validated(model: Any, dataset: Any) -> dict[str, Any]:
    """Return the slices on validation, and discovery with touched items masked."""
    asked: dict[str, Any] = {"split": "validation", "k": 10, "beyond_accuracy": False}
    plain = evaluate(model, dataset, **asked).slices
    masked = evaluate(model, dataset, mask="touched", **asked).slices
    wanted = ("users", "hr@10", "ndcg@10")
    return {
        "validation": {part: {m: values[m] for m in wanted} for part, values in plain.items()},
        "discovery, touched masked": {m: masked["discovery"][m] for m in wanted},
    }


def trials() -> dict[tuple[str, str], list[dict[str, Any]]]:
    """Return the trials that gave figures by data set and model, the best on validation first."""
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in finished(RESULTS).values():
        if row.get("metrics"):
            found.setdefault((row["dataset"], row["model"]), []).append(row)
    for rows in found.values():
        rows.sort(key=lambda row: -row["metrics"]["overall"][METRIC])
    return found


def table() -> None:
    """Print the best trial of every model, of its longest search."""
    rows = [row for row in finished(RESULTS).values() if "validation" in row]
    for row in {(row["dataset"], row["model"]): row for row in rows}.values():
        parts = {
            **row["validation"],
            "discovery, touched masked": row["discovery, touched masked"],
        }
        cells = [f"{part} {v['hr@10']:.4f} / {v['ndcg@10']:.4f}" for part, v in parts.items()]
        print(row["dataset"], row["model"], json.dumps(row["settings"]), *cells, sep="\n  ")


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("step", choices=["search", "table"])
    parser.add_argument("--dataset", default="taobao15k")
    parser.add_argument("--models", default=",".join(BUDGET), help="comma-separated")
    parser.add_argument("--work", type=Path, default=Path("search"))
    parser.add_argument("--trials", type=int, help="instead of each model's own number")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    prefer_huge_pages()
    if arguments.step == "table":
        table()
    else:
        chosen = [name for name in arguments.models.split(",") if name]
        search(arguments.dataset, chosen, arguments.work, arguments.trials)


if __name__ == "__main__":
    main()
