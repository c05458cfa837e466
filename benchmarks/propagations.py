"""Accuracy against time for several numbers of propagations an epoch, on validation.

Run from the repository with the benchmark files in FUNNELREC_DATA::

    python benchmarks/propagations.py --device cuda --out measured
    python benchmarks/propagations.py --models lightgcn --minutes 3
    python benchmarks/propagations.py --cost            # seconds an epoch alone, on an idle machine
    python benchmarks/propagations.py --table           # rewrites the table in docs/performance.md

One propagation serves one batch as the papers have it. Larger batches, and several batches a step
(``batches_per_propagation``), take fewer of them. Each setting trains to its own early stopping,
at most ``--minutes``, and is one line of OUT/propagations.jsonl: propagations an epoch, the best
validation figures, the seconds to reach them by the clock and in processor time of a thread, and
the way there: epoch, both times with the validations before it, value. Processor time means
something on a busy machine, too, and on a CPU the minutes are counted in it. A second call repeats
no line that is there. Test pairs are never looked at. Lines of a card with ``side_by_side`` were
trained that many at once, so their seconds mean nothing; ``--cost`` measures what an epoch takes.
"""

from __future__ import annotations

import argparse
import json
import time
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import torch

from funnelrec.common.memory import prefer_huge_pages
from funnelrec.data.dataset import TrainingData
from funnelrec.models import FitOptions, create_model
from funnelrec.models.gradient import GradientRecommender
from machine import Lines, described
from reproduction import CHOSEN, ROOT, SINGLE, between, load

PAGE = ROOT / "docs/performance.md"
OUT = Path(__file__).resolve().parent / "results"
DATASET = "taobao15k"

# Epochs of which an epoch's time is taken.
COSTED = 5

# Steps grow with the root of how much larger a step's batch is than the model's own.
GRID: dict[str, list[dict[str, Any]]] = {
    "lightgcn": [
        {"batch_size": size, "learning_rate": rate}
        for size, rate in ((1024, 1e-3), (2048, 2.5e-3), (4096, 5e-3), (16384, 1e-2), (79506, 2e-2))
    ]
    + [{"batch_size": 4096, "batches_per_propagation": 4, "learning_rate": 1e-2}],
    # All stopped by the same rule, that of one batch a propagation.
    "rmbrec": [
        {**SINGLE, "batch_size": 512, "learning_rate": 1.4e-3},
        SINGLE,
        {**SINGLE, "batches_per_propagation": 2, "learning_rate": 2.8e-3},
        {**SINGLE, "batches_per_propagation": 4, "learning_rate": 4e-3},
        {**SINGLE, "batches_per_propagation": 8, "learning_rate": 5.6e-3},
        {**SINGLE, "batch_size": 4096, "learning_rate": 4e-3},
    ],
    "charm": [
        {"preset": "practical", "batch_size": 2048, "learning_scale": 0.7},
        {"preset": "practical"},
        {"preset": "practical", "batch_size": 8192, "learning_scale": 1.4},
        {"preset": "practical", "batch_size": 16384, "learning_scale": 2.0},
    ],
}


class Budget:
    """Ends a training after so many minutes, by its epochs."""

    def __init__(self, minutes: float) -> None:
        self._seconds = 60 * minutes

    def epochs(self, seconds_an_epoch: float, most: int) -> int:
        """Return how many epochs fit."""
        return max(2, min(most, int(self._seconds / max(seconds_an_epoch, 1e-3))))


def made(
    name: str, setting: dict[str, Any], device: torch.device, seed: int, **more: Any
) -> GradientRecommender[Any, Any]:
    """Return an unfitted model under a setting of the grid."""
    given = {**CHOSEN.get(name, {}), **setting}
    preset, scale = given.pop("preset", None), given.pop("learning_scale", 1.0)
    model = create_model(name, preset=preset, config=given, seed=seed, device=str(device))
    config: Any = model.config
    changed = {"learning_rate": config.learning_rate * scale, **more}
    whole = config.replace(**changed).model_dump()
    return cast(
        "GradientRecommender[Any, Any]",
        create_model(name, config=whole, seed=seed, device=str(device)),
    )


def measured(
    name: str,
    setting: dict[str, Any],
    data: TrainingData,
    *,
    device: torch.device,
    seed: int,
    minutes: float,
    every: int,
) -> dict[str, Any]:
    """Return the line of one training, validated every so many epochs."""
    threads = torch.get_num_threads() if device.type == "cpu" else 1
    spent: list[float] = []

    def noted() -> bool:
        # Of a thread on a CPU, which a busy machine hardly changes; of the clock on a card.
        now = time.process_time() / threads if device.type == "cpu" else time.perf_counter()
        spent.append(now)
        return False

    options = FitOptions(progress="none", stop=noted)
    made(name, setting, device, seed, epochs=2, evaluate_every=2).fit(data, options=options)
    each = spent[1] - spent[0]
    model = made(name, setting, device, seed)
    most = Budget(minutes).epochs(each, model.config.epochs)
    model = made(name, setting, device, seed, epochs=most, evaluate_every=every)
    spent.clear()
    noted()
    began = time.perf_counter()
    model.fit(data, options=options)
    took = time.perf_counter() - began
    taken = [at - spent[0] for at in spent[1:]]
    history = model.history
    best = history.records[history.best_epoch - 1]
    steps = -(-model.sampler(data).n_batches // getattr(model.config, "batches_per_propagation", 1))
    return {
        "model": name,
        "setting": setting,
        "seed": seed,
        "evaluate_every": every,
        "propagations_an_epoch": steps,
        "epochs": len(history.records),
        "stopped": history.stopped,
        "best_epoch": history.best_epoch,
        "best": best.validation,
        "seconds_to_best": best.seconds,
        "thread_seconds_to_best": taken[history.best_epoch - 1],
        "seconds_an_epoch": history.seconds / len(history.records),
        "seconds": took,
        "way": [
            [
                record.epoch,
                round(record.seconds, 2),
                round(of_thread, 2),
                round(record.validation[model.config.metric], 5),
            ]
            for record, of_thread in zip(history.records, taken, strict=True)
            if record.validation
        ],
    }


def cost(
    name: str, setting: dict[str, Any], data: TrainingData, *, device: torch.device, seed: int
) -> dict[str, Any]:
    """Return the seconds of an epoch without validation, the best of those after the first."""
    ends: list[tuple[float, float]] = []

    def noted() -> bool:
        ends.append((time.perf_counter(), time.process_time()))
        return False

    model = made(name, setting, device, seed, epochs=COSTED, evaluate_every=COSTED)
    steps = -(-model.sampler(data).n_batches // getattr(model.config, "batches_per_propagation", 1))
    model.fit(data, options=FitOptions(progress="none", stop=noted))
    # The last epoch is validated, the first fills caches.
    taken = [(later[0] - at[0], later[1] - at[1]) for at, later in pairwise(ends[:-1])]
    return {
        "model": name,
        "setting": setting,
        "cost": True,
        "propagations_an_epoch": steps,
        "seconds_an_epoch": min(clock for clock, _ in taken),
        "processor_seconds_an_epoch": min(processor for _, processor in taken),
    }


def table(lines: list[dict[str, Any]]) -> str:
    """Return the trainings of a card, with the seconds of an epoch of a core."""

    def costs(line: dict[str, Any]) -> float | None:
        same = [
            other["processor_seconds_an_epoch"]
            for other in lines
            if other.get("cost")
            and (other["model"], other["setting"]) == (line["model"], line["setting"])
        ]
        return min(same, default=None)

    rows = [
        "| model | setting | propagations an epoch | HR@10 / NDCG@10 | best epoch of "
        "| seconds an epoch | seconds to the best |",
        "|---|---|---:|---|---|---:|---:|",
    ]
    trained = [line for line in lines if line.get("side_by_side")]
    for name, settings in GRID.items():
        for line in trained:
            if line["model"] != name or line["setting"] not in settings:
                continue
            each = costs(line)
            said = ", ".join(
                f"{key}={value:g}" if isinstance(value, int | float) else value
                for key, value in line["setting"].items()
                if len(line["setting"]) == 1 or value != SINGLE["preset"]
            )
            seconds = "- | -" if each is None else f"{each:.2f} | {each * line['best_epoch']:.0f}"
            rows.append(
                f"| {name} | {said or 'the default'} | {line['propagations_an_epoch']} "
                f"| {line['best']['hr@10']:.4f} / {line['best']['ndcg@10']:.4f} "
                f"| {line['best_epoch']} of {line['epochs']} | {seconds} |"
            )
    return "\n".join(rows)


def main() -> None:
    """Train what is not there yet."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--models", nargs="*", choices=tuple(GRID), default=tuple(GRID))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=1.0, help="Of one training at most.")
    parser.add_argument("--every", type=int, default=1, help="Epochs between validations.")
    parser.add_argument(
        "--settings",
        nargs="*",
        type=int,
        help="Which of a model's settings, by place; all by default.",
    )
    parser.add_argument("--cost", action="store_true", help="Measure an epoch, and no accuracy.")
    parser.add_argument("--table", action="store_true", help="Rewrite the table of the page.")
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args()
    if arguments.table:
        lines_there = (OUT / "propagations.jsonl").read_text(encoding="utf-8").splitlines()
        rows = table([json.loads(line) for line in lines_there])
        PAGE.write_text(between(PAGE.read_text(), "propagations", rows))
        return
    prefer_huge_pages()
    dataset = load(DATASET)
    if dataset is None:
        return
    device = torch.device(arguments.device)
    lines = Lines(arguments.out / "propagations.jsonl", described(device))
    for name in arguments.models:
        places = arguments.settings or range(len(GRID[name]))
        for setting in (GRID[name][place] for place in places):
            if arguments.cost:
                given = (name, setting, dataset.training)
                lines.add(cost(*given, device=device, seed=arguments.seed))
                continue
            wanted = {"model": name, "setting": setting, "seed": arguments.seed}
            if lines.done(**wanted):
                continue
            lines.add(
                measured(
                    name,
                    setting,
                    dataset.training,
                    device=device,
                    seed=arguments.seed,
                    minutes=arguments.minutes,
                    every=arguments.every,
                )
            )


if __name__ == "__main__":
    main()
