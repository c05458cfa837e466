"""Hesitations found on the simulated shop, whose truth is known: train, study, tabulate.

    python benchmarks/hesitations_shop.py run       # every model with every seed
    python benchmarks/hesitations_shop.py table     # rewrites the table in docs/reproduction.md

A seed draws the shop and the model. Each finished training is one line in
benchmarks/results/hesitations_shop.jsonl; a second call repeats none of them. The truth of these
shops takes no part in training or in any choice: what was chosen with a truth in sight was chosen
on the shop of seed 100, which is not among them.

Two rows say what is to be had: boosted trees on plain counts, one shown whether validation
purchases followed, which any model may know, and one shown the truth itself, which none may. Both
are scored on users they were not fitted on.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping
from statistics import mean, stdev
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from funnelrec.common.memory import prefer_huge_pages
from funnelrec.comparison.hesitation_study import (
    TASKS,
    LabelledPairs,
    hesitation_study,
    labelled_pairs,
    rule_scores,
)
from funnelrec.data import SimulatedShop, prepare, read_events, simulate_shop
from funnelrec.data.dataset import Dataset, TrainingData
from funnelrec.data.interactions import LongArray
from funnelrec.data.touched import touched_not_bought
from funnelrec.evaluation.binary import average_precision, roc_auc
from funnelrec.evaluation.conversion_calibration import calibrate_conversion
from funnelrec.evaluation.protocol import current_versions
from funnelrec.models import create_model
from reproduction import PAGE, ROOT, SEEDS, append, as_now, between, finished, key_of, machine

RESULTS = ROOT / "benchmarks/results/hesitations_shop.jsonl"

# Rows of the table: a name, and how the model is made.
MODELS: dict[str, Mapping[str, Any]] = {
    "charm": {"preset": "practical"},
    "charm, w/o MI": {"preset": "practical", "estimator": "cosine", "lambda_mi": 0.0},
    "charm, f as printed": {
        "preset": "practical",
        "estimator": "mlp",
        "permute": "vector",
        "mi_action": "plain",
        "center": False,
    },
    "charm, evidence as printed": {
        "preset": "practical",
        "sub_intent": True,
        "sub_projection": True,
        "pooling": "noisy_or",
        "dated_evidence": False,
    },
    "charm, without dates": {"preset": "practical", "dated_evidence": False},
}
TREES = "boosted trees, shown "
FOLDS = 5
# Which number of a model is judged in which task; see the module hesitation_study.
MAIN = {"hesitation": "confidence", "substitution": "evidence", "substitution, known": "evidence"}
OTHER = {"hesitation": "weight", "substitution": "explained", "substitution, known": "explained"}


def run(names: set[str], seeds: tuple[int, ...], device: str) -> None:
    """Train every model with every seed and record all figures."""
    done = finished(RESULTS)
    for seed in seeds:
        shop = simulate_shop(seed=seed)
        dataset = prepare(read_events(shop.events, behaviors=shop.behaviors), name="shop")
        trees: list[dict[str, Any]] = []
        for name, settings in MODELS.items():
            model: Any = create_model("charm", **settings, seed=seed, device=device)
            config = model.config.model_dump(mode="json")
            key = key_of(fingerprint=dataset.fingerprint, model=name, settings=config, seed=seed)
            if key in done or (names and name not in names):
                continue
            began = time.monotonic()
            model.fit(dataset)
            seconds = time.monotonic() - began
            table = hesitation_study(shop, dataset, {name: model})
            trees = trees or boosted_trees(shop, dataset, seed)
            calibration = calibrate_conversion(model, dataset.training, seed=seed)
            row = {
                "key": key,
                "model": name,
                "settings": config,
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
                "machine": machine(device),
                "study": table.to_dicts() + trees,
            }
            append(RESULTS, row)
            shown = {
                task: round(_figure(row, name, MAIN[task], task, "auc") or 0, 4) for task in TASKS
            }
            print(f"{name} seed {seed} in {seconds:.0f} s: {json.dumps(shown)}", flush=True)


def boosted_trees(shop: SimulatedShop, dataset: Dataset, seed: int) -> list[dict[str, Any]]:
    """Return how well trees on plain counts find hesitations, as rows of the study."""
    import lightgbm

    data = dataset.training
    pairs = labelled_pairs(shop, data)
    scored, true = pairs.task("hesitation")
    users, items, counts = _touched(data)
    shown = {
        "validation purchases": (
            _features(data, users, items, counts),
            data.validation.contains(users, items),
            users,
        ),
        "the truth": (
            _features(data, pairs.users, pairs.items, pairs.events)[scored],
            true[scored],
            pairs.users[scored],
        ),
    }
    asked = _features(data, pairs.users, pairs.items, pairs.events)[scored]
    owners = pairs.users[scored]
    options = {
        "objective": "binary",
        "num_leaves": 15,
        "learning_rate": 0.05,
        "min_data_in_leaf": 50,
        "feature_fraction": 0.5,
        "num_threads": 1,
        "verbose": -1,
        "seed": seed,
    }
    rows = []
    for what, (features, labels, fitted) in shown.items():
        found = np.empty(len(asked))
        for fold in range(FOLDS):
            known, out = fitted % FOLDS != fold, owners % FOLDS == fold
            frame = lightgbm.Dataset(features[known], labels[known].astype(np.int64))
            found[out] = np.asarray(lightgbm.train(options, frame, 150).predict(asked[out]))
        rows.append(
            {
                "scorer": TREES + what,
                "signal": TREES + what,
                "task": "hesitation",
                "auc": roc_auc(found, true[scored]),
                "average_precision": average_precision(found, true[scored]),
                "true": int(true[scored].sum()),
                "false": int((~true[scored]).sum()),
            }
        )
    return rows


def _touched(data: TrainingData) -> tuple[LongArray, LongArray, LongArray]:
    blocks = list(touched_not_bought(data))
    users, items, counts = (
        np.concatenate([getattr(block, name) for block in blocks])
        for name in ("users", "items", "counts")
    )
    return users, items, counts


def _features(
    data: TrainingData, users: LongArray, items: LongArray, events: LongArray
) -> npt.NDArray[np.float64]:
    """Return behaviors, events, the rule's score and the degrees, shape ``(n, B + 6)``."""
    none = np.zeros(users.size, dtype=np.bool_)
    pairs = LabelledPairs(users, items, events, events, none, none, none, none, 0)
    columns: list[npt.NDArray[Any]] = [
        data.interactions[name].contains(users, items) for name in data.auxiliary
    ]
    columns += [events, rule_scores(pairs, data)["conversion"]]
    for part in (data.purchases, data.touched):
        columns += [part.user_degrees[users], part.item_degrees[items]]
    return np.stack(columns, axis=1).astype(np.float64)


def _figure(row: Mapping[str, Any], scorer: str, signal: str, task: str, name: str) -> float | None:
    for line in row["study"]:
        if (line["scorer"], line["signal"], line["task"]) == (scorer, signal, task):
            return None if line[name] is None else float(line[name])
    return None


def table() -> None:
    """Rewrite the table between the markers of the page."""
    # Trainings under settings of the past stay on file.
    now = {
        name: create_model("charm", **settings).config.model_dump(mode="json")
        for name, settings in MODELS.items()
    }
    rows = [
        row
        for row in finished(RESULTS).values()
        if as_now("charm", row["settings"]) == now[row["model"]]
    ]
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
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    prefer_huge_pages()
    if arguments.step == "table":
        table()
        return
    names = {name.strip() for name in arguments.models.split(";") if name.strip()}
    seeds = tuple(int(seed) for seed in arguments.seeds.split(","))
    run(names, seeds, arguments.device)


if __name__ == "__main__":
    main()
