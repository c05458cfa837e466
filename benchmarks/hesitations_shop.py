"""Hesitations found on the simulated shop, whose truth is known: train, study, tabulate.

    python benchmarks/hesitations_shop.py run       # every model with every seed
    python benchmarks/hesitations_shop.py table     # rewrites the table in docs/reproduction.md

A seed draws the shop and the model. Each finished training is one line in
benchmarks/results/hesitations_shop.jsonl; a second call repeats none of them. The truth takes no
part in training or in any choice.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Mapping
from statistics import mean, stdev
from typing import Any

import torch

from funnelrec.common.memory import keep_freed_memory
from funnelrec.comparison.hesitation_study import TASKS, hesitation_study
from funnelrec.data import prepare, read_events, simulate_shop
from funnelrec.evaluation.conversion_calibration import calibrate_conversion
from funnelrec.evaluation.protocol import current_versions
from funnelrec.models import create_model
from reproduction import PAGE, ROOT, SEEDS, append, between, finished, key_of

RESULTS = ROOT / "benchmarks/results/hesitations_shop.jsonl"

# Rows of the table: a name, and how the model is made.
MODELS: dict[str, Mapping[str, Any]] = {
    "charm": {"preset": "practical"},
    "charm, w/o MI": {"preset": "practical", "estimator": "cosine", "lambda_mi": 0.0},
}
# Which number of a model is judged in which task; see the module hesitation_study.
MAIN = {"hesitation": "confidence", "substitution": "evidence", "substitution, known": "evidence"}
OTHER = {"hesitation": "weight", "substitution": "explained", "substitution, known": "explained"}


def run(names: set[str], seeds: tuple[int, ...]) -> None:
    """Train every model with every seed and record all figures."""
    done = finished(RESULTS)
    for seed in seeds:
        shop = simulate_shop(seed=seed)
        dataset = prepare(read_events(shop.events, behaviors=shop.behaviors), name="shop")
        for name, settings in MODELS.items():
            key = key_of(
                fingerprint=dataset.fingerprint, model=name, settings=dict(settings), seed=seed
            )
            if key in done or (names and name not in names):
                continue
            began = time.monotonic()
            model: Any = create_model("charm", **settings, seed=seed, device="cpu").fit(dataset)
            seconds = time.monotonic() - began
            table = hesitation_study(shop, dataset, {name: model})
            calibration = calibrate_conversion(model, dataset.training, seed=seed)
            row = {
                "key": key,
                "model": name,
                "settings": dict(settings),
                "seed": seed,
                "fingerprint": dataset.fingerprint,
                "epochs": model.history.best_epoch,
                "validation": model.history.best_value,
                "seconds": round(seconds, 1),
                "calibration": None
                if calibration is None
                else {
                    part: {
                        when: {
                            figure: getattr(getattr(scale, when), figure)
                            for figure in ("ece", "brier", "auc")
                        }
                        for when in ("before", "after")
                    }
                    for part, scale in (
                        ("confidence", calibration.confidence),
                        ("weight", calibration.weight),
                    )
                },
                "versions": current_versions(),
                "machine": f"{platform.machine()}, {os.cpu_count()} cores",
                "study": table.to_dicts(),
            }
            append(RESULTS, row)
            shown = {
                task: round(_figure(row, name, MAIN[task], task, "auc") or 0, 4) for task in TASKS
            }
            print(f"{name} seed {seed} in {seconds:.0f} s: {json.dumps(shown)}", flush=True)


def _figure(row: Mapping[str, Any], scorer: str, signal: str, task: str, name: str) -> float | None:
    for line in row["study"]:
        if (line["scorer"], line["signal"], line["task"]) == (scorer, signal, task):
            return None if line[name] is None else float(line[name])
    return None


def table() -> None:
    """Rewrite the table between the markers of the page."""
    rows = list(finished(RESULTS).values())
    PAGE.write_text(between(PAGE.read_text(), "hesitations shop", _lines(rows)))


def _lines(rows: list[dict[str, Any]]) -> str:
    lines = [
        f"| scorer | seeds | {' | '.join(f'{task}: AUC / AP' for task in TASKS)} |",
        "|---" * (len(TASKS) + 2) + "|",
    ]
    for name in MODELS:
        mine = [row for row in rows if row["model"] == name]
        for choice in (MAIN, OTHER):
            signals = " and ".join(dict.fromkeys(choice.values()))
            cells = [_cell(mine, name, choice[task], task) for task in TASKS]
            lines.append(f"| {name}: {signals} | {len(mine)} | {' | '.join(cells)} |")
    # Every line of one seed holds the same rules.
    first = {row["seed"]: row for row in rows}
    rules = dict.fromkeys(
        line["scorer"] for row in rows for line in row["study"] if line["scorer"] not in MODELS
    )
    for rule in rules:
        cells = [_cell(list(first.values()), rule, rule, task) for task in TASKS]
        lines.append(f"| {rule} | {len(first)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(rows: list[dict[str, Any]], scorer: str, signal: str, task: str) -> str:
    parts = []
    for name in ("auc", "average_precision"):
        values = [_figure(row, scorer, signal, task, name) for row in rows]
        known = [value for value in values if value is not None]
        if not known:
            return "-"
        spread = f" ± {stdev(known):.3f}" if len(known) > 1 else ""
        parts.append(f"{mean(known):.3f}{spread}")
    return " / ".join(parts)


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("step", choices=["run", "table"])
    parser.add_argument("--models", default="", help="semicolon-separated; all by default")
    parser.add_argument("--seeds", default=",".join(map(str, SEEDS)))
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    keep_freed_memory()
    if arguments.step == "table":
        table()
        return
    names = {name.strip() for name in arguments.models.split(";") if name.strip()}
    run(names, tuple(int(seed) for seed in arguments.seeds.split(",")))


if __name__ == "__main__":
    main()
