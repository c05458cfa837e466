"""Fold-in against refitting: users left out of training, recommended to by their history alone.

Run from the repository with the benchmark files in FUNNELREC_DATA::

    python benchmarks/fold_in.py                        # rmbrec on taobao15k, two trainings
    python benchmarks/fold_in.py --model conversion
    python benchmarks/fold_in.py --seed 1               # another tenth, another training
    python benchmarks/fold_in.py --own-length 2 --keep FOLDER   # how own_length was chosen
    python benchmarks/fold_in.py time --keep FOLDER     # one user's milliseconds, one epoch

A tenth of the users is drawn. One model is trained on everybody; another one never sees these
users and gets what the first was trained on of them as a history. Both select their epoch on the
validation purchases of those they are trained on, and both rank the same held-out purchases of the
users left out under one protocol (whole catalogue, training purchases masked, pessimistic ties).
The bar is a test HR@10 of at least 95 % of the refitted figure; whatever is chosen about fold-in is
chosen on the validation purchases, whose figures stand beside it. ``time`` is apart because an
idle machine is needed for it alone. One line is added to benchmarks/results/fold_in.jsonl.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import torch

from funnelrec.common.random import stream
from funnelrec.common.version import __version__
from funnelrec.data.dataset import Dataset, IdMap, TrainingData
from funnelrec.data.interactions import Interactions, LongArray
from funnelrec.evaluation.metrics import hr, ndcg
from funnelrec.evaluation.ranking import Ranks, rank_held_out
from funnelrec.models import create_model
from funnelrec.models.base import Recommender
from funnelrec.models.folding import FoldedUsers
from funnelrec.models.propagated import OWN_LENGTH, PropagatedRecommender
from reproduction import CHOSEN, append, load, machine

RESULTS = Path(__file__).resolve().parent / "results/fold_in.jsonl"
BAR = {"ratio of hr@10": 0.95, "milliseconds": 5.0}
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


def hits(ranks: Ranks) -> npt.NDArray[np.float64]:
    """Return HR@10 of each user ranked."""
    return np.asarray(hr(ranks.rank, ranks.rows, np.bincount(ranks.rows), 10), np.float64)


def beside(full: Ranks, folded: Ranks) -> dict[str, Any]:
    """Return the figures of both, and for how many users they differ."""
    there, here = hits(full), hits(folded)
    gains = [float(ndcg(r.rank, r.rows, np.bincount(r.rows), 10).mean()) for r in (full, folded)]
    return {
        "users": len(there),
        "refitted": {"hr@10": float(there.mean()), "ndcg@10": gains[0]},
        "folded": {"hr@10": float(here.mean()), "ndcg@10": gains[1]},
        "ratio": {"hr@10": float(here.mean() / there.mean()), "ndcg@10": gains[1] / gains[0]},
        # One held-out purchase a user: a hit is 0 or 1.
        "hit_by_both": int((there * here).sum()),
        "hit_refitted_only": int((there * (1 - here)).sum()),
        "hit_folded_only": int((here * (1 - there)).sum()),
    }


def left_out(data: TrainingData, seed: int) -> LongArray:
    """Return a tenth of the users."""
    drawn = stream(seed, "left out").permutation(data.n_users)[: data.n_users // 10]
    return np.sort(np.asarray(drawn, np.int64))


def without(data: TrainingData, left: LongArray) -> TrainingData:
    """Return the data of everybody else."""
    return only(data, np.setdiff1d(np.arange(data.n_users), left))


def trained(
    name: str, settings: dict[str, Any], seed: int, data: TrainingData, kept: Path | None
) -> Recommender[Any]:
    """Return the fitted model; from ``kept`` where it is there already."""
    model = create_model(name, **settings, seed=seed, device="cpu")
    if kept is not None and kept.exists():
        return model.restore(kept, data)
    model.fit(data)
    if kept is not None:
        model.save(kept)
    return model


def ranked(
    full: Recommender[Any], folded: FoldedUsers, dataset: Dataset, held_out: Interactions
) -> dict[str, Any]:
    """Return both models' figures on the held-out purchases of the users folded in."""
    places = dataset.training.user_ids.encode(folded.histories.user_ids)
    refitted = rank_held_out(full, held_out, masks=[dataset.training.purchases], users=places)
    ranks = rank_held_out(folded, held_out.take(places), masks=folded.excluded(("train-target",)))
    if not np.array_equal(places[ranks.users], refitted.users):
        raise SystemExit("the two models were not ranked for the same users in the same order.")
    return beside(refitted, ranks)


def compared(
    dataset: Dataset,
    name: str,
    settings: dict[str, Any],
    seed: int,
    keep: Path | None = None,
    own_length: float = OWN_LENGTH,
) -> dict[str, Any]:
    """Return the record of one comparison."""
    data = dataset.training
    left = left_out(data, seed)
    places = [None if keep is None else keep / f"{name}-{seed}-{part}" for part in ("all", "kept")]
    began = time.process_time()
    full = trained(name, settings, seed, data, places[0])
    part = trained(name, settings, seed, without(data, left), places[1])
    seconds = time.process_time() - began
    if isinstance(part, PropagatedRecommender):
        part.own_length = own_length
    folded = part.fold_in(log_of(data, left))
    if (folded.histories.known >= 0).any():
        raise SystemExit("the users left out are known to the model: the comparison is void.")
    return {
        "epochs": [_epochs(full), _epochs(part)],
        "test": ranked(full, folded, dataset, dataset.test),
        "validation": ranked(full, folded, dataset, data.validation),
        "processor_seconds_of_training": round(seconds, 1),
    }


def _epochs(model: Any) -> int | None:
    history = getattr(model, "history", None)
    return None if history is None else int(history.best_epoch)


def timed(
    dataset: Dataset, name: str, settings: dict[str, Any], seed: int, keep: Path | None = None
) -> dict[str, Any]:
    """Return percentiles of ``recommend`` for one user with a frame, in milliseconds."""
    data = dataset.training
    left = left_out(data, seed)
    kept = None if keep is None else keep / f"{name}-{seed}-timed"
    model = trained(name, settings, seed, without(data, left), kept)
    frames = log_of(data, left).partition_by("user_id", maintain_order=True)[:TIMED]
    taken = []
    for frame in [frames[0], *frames]:
        began = time.perf_counter()
        model.recommend(history=frame, k=10)
        taken.append(1000 * (time.perf_counter() - began))
    # The first call prepares the item side.
    first, *rest = taken
    return {
        "milliseconds_for_one_user": {
            "first": round(first, 2),
            "median": round(float(np.median(rest)), 2),
            "p95": round(float(np.quantile(rest, 0.95)), 2),
            "p99": round(float(np.quantile(rest, 0.99)), 2),
        },
        "users": len(rest),
        "events_median": float(np.median([frame.height for frame in frames])),
    }


def main() -> None:
    """Measure models and print the records."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("step", nargs="?", choices=["compare", "time"], default="compare")
    parser.add_argument("--dataset", default="taobao15k")
    parser.add_argument("--model", nargs="+", default=["rmbrec"], dest="models")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, help="Epochs at most, the model's own if not given.")
    parser.add_argument("--own-length", type=float, default=OWN_LENGTH, help="Of graph models.")
    parser.add_argument("--threads", type=int, default=1, help="One, as a worker of the service.")
    parser.add_argument("--keep", type=Path, help="Folder for the trained models, taken up again.")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    dataset = load(arguments.dataset)
    if dataset is None:
        return
    for name in arguments.models:
        measure(dataset, name, arguments)


def measure(dataset: Dataset, name: str, arguments: argparse.Namespace) -> None:
    """Measure one model, add the record to the results and print it."""
    model = create_model(name)
    settings = dict(CHOSEN.get(name, {}))
    epochs = 1 if arguments.step == "time" and arguments.epochs is None else arguments.epochs
    if epochs is not None and "epochs" in model.config.model_dump():
        settings["epochs"] = epochs
    given = (dataset, name, settings, arguments.seed, arguments.keep)
    length = arguments.own_length
    found = timed(*given) if arguments.step == "time" else compared(*given, length)
    row = {
        "step": arguments.step,
        "dataset": arguments.dataset,
        "fingerprint": dataset.fingerprint,
        "model": name,
        "settings": settings,
        "seed": arguments.seed,
        "own_length": length if isinstance(model, PropagatedRecommender) else None,
        **found,
        "bars": BAR,
        "versions": {"funnelrec": __version__, "torch": str(torch.__version__)},
        "machine": machine("cpu"),
        "threads": torch.get_num_threads(),
    }
    append(RESULTS, row)
    print(json.dumps(row, indent=2))


if __name__ == "__main__":
    main()
