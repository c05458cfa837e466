"""Fold-in against refitting: users left out of training, recommended to by their history alone.

Run from the repository with the benchmark files in FUNNELREC_DATA::

    python benchmarks/fold_in.py --model rmbrec      # taobao15k, two trainings
    python benchmarks/fold_in.py --model conversion

A tenth of the users is drawn. One model is trained on everybody; another one never sees these
users and gets what the first was trained on of them as a history. Both rank the test purchases of
these users under one protocol (whole catalogue, training purchases masked, pessimistic ties). The
bar is an HR@10 of at least 95 % of the refitted figure. Then the time of one user through
``recommend(history=frame)``. One line is added to benchmarks/results/fold_in.jsonl.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from funnelrec.common.random import stream
from funnelrec.common.version import __version__
from funnelrec.data.dataset import IdMap, TrainingData
from funnelrec.data.interactions import LongArray
from funnelrec.evaluation.metrics import hr, ndcg
from funnelrec.evaluation.ranking import Ranks, rank_held_out
from funnelrec.models import create_model
from reproduction import CHOSEN, append, load

RESULTS = Path(__file__).resolve().parent / "results/fold_in.jsonl"
BAR = 0.95
TIMED = 200


def only(data: TrainingData, users: LongArray) -> TrainingData:
    """Return the data of some users; of the others not even the identifiers remain."""
    return TrainingData(
        behaviors=data.behaviors,
        target=data.target,
        interactions={name: part.take(users) for name, part in data.interactions.items()},
        validation=data.validation.take(users),
        user_ids=IdMap(data.user_ids.decode(users)),
        item_ids=data.item_ids,
        recent={name: part.take(users) for name, part in data.recent.items()},
    )


def log_of(data: TrainingData, users: LongArray) -> pl.DataFrame:
    """Return the training events of some users as a log."""
    parts = []
    for name, part in data.interactions.items():
        own = part.take(users)
        columns = {
            "user_id": data.user_ids.decode(users[own.users]),
            "item_id": data.item_ids.decode(own.indices),
        }
        parts.append(pl.DataFrame(columns).with_columns(pl.lit(name).alias("behavior")))
    return pl.concat(parts)


def figures(ranks: Ranks) -> dict[str, float]:
    """Return HR@10 and NDCG@10 over the users ranked."""
    relevant = np.bincount(ranks.rows)
    return {
        "hr@10": float(hr(ranks.rank, ranks.rows, relevant, 10).mean()),
        "ndcg@10": float(ndcg(ranks.rank, ranks.rows, relevant, 10).mean()),
    }


def compared(name: str, model: str, settings: dict[str, Any], seed: int) -> dict[str, Any] | None:
    """Return the record of one comparison; None where the benchmark files are absent."""
    dataset = load(name)
    if dataset is None:
        return None
    data = dataset.training
    left = np.sort(stream(seed, "left out").permutation(data.n_users)[: data.n_users // 10])
    kept = np.setdiff1d(np.arange(data.n_users), left)
    began = time.process_time()
    full = create_model(model, **settings, seed=seed, device="cpu").fit(data)
    without = create_model(model, **settings, seed=seed, device="cpu").fit(only(data, kept))
    seconds = time.process_time() - began
    refitted = rank_held_out(full, dataset.test, masks=[data.purchases], users=left)
    log = log_of(data, left)
    folded = without.fold_in(log)
    if (folded.histories.known >= 0).any():
        raise SystemExit("the users left out are known to the model: the comparison is void.")
    places = data.user_ids.encode(folded.histories.user_ids)
    ranks = rank_held_out(
        folded, dataset.test.take(places), masks=folded.excluded(("train-target",))
    )
    there, here = figures(refitted), figures(ranks)
    return {
        "dataset": name,
        "fingerprint": dataset.fingerprint,
        "model": model,
        "settings": settings,
        "seed": seed,
        "users": len(ranks.user_numbers),
        "epochs": [_epochs(full), _epochs(without)],
        "refitted": there,
        "folded": here,
        "ratio": {metric: here[metric] / there[metric] for metric in there},
        "bar": BAR,
        "cpu_seconds_of_training": round(seconds, 1),
        "milliseconds_for_one_user": timed(without, log),
        "versions": {"funnelrec": __version__, "torch": str(torch.__version__)},
        "machine": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
    }


def _epochs(model: Any) -> int | None:
    history = getattr(model, "history", None)
    return None if history is None else int(history.best_epoch)


def timed(model: Any, log: pl.DataFrame) -> dict[str, float]:
    """Return percentiles of ``recommend`` for one user with a frame, in milliseconds."""
    frames = log.partition_by("user_id", maintain_order=True)[:TIMED]
    taken = []
    for frame in [frames[0], *frames]:
        began = time.perf_counter()
        model.recommend(history=frame, k=10)
        taken.append(1000 * (time.perf_counter() - began))
    # The first call prepares the item side.
    first, *rest = taken
    return {
        "first": round(first, 2),
        "median": round(float(np.median(rest)), 2),
        "p99": round(float(np.quantile(rest, 0.99)), 2),
        "events_median": float(np.median([frame.height for frame in frames])),
    }


def main() -> None:
    """Compare one model and print the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--dataset", default="taobao15k")
    parser.add_argument("--model", default="rmbrec")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, help="Epochs at most, the model's own if not given.")
    arguments = parser.parse_args()
    settings = dict(CHOSEN.get(arguments.model, {}))
    if arguments.epochs is not None:
        settings["epochs"] = arguments.epochs
    row = compared(arguments.dataset, arguments.model, settings, arguments.seed)
    if row is None:
        return
    append(RESULTS, row)
    print(json.dumps(row, indent=2))


if __name__ == "__main__":
    main()
