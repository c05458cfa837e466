"""A log of 15 million events, 2 million users and 2 million items through the main job, timed.

Run from the repository; every finished step is one line in benchmarks/results/large_log.jsonl and
is not done again until the folder is removed::

    python benchmarks/large_log.py /tmp/large                    # all steps, full size
    python benchmarks/large_log.py /tmp/small --scale 0.1        # a tenth of users, items, events
    python benchmarks/large_log.py /tmp/large --steps prepare    # one step

Each step is a process of its own, and all but two are the product's own commands. ``graphs``
builds the four graphs from the stored data set. ``lightgcn`` and ``rmbrec`` train through the
product's loop; with ``--fraction`` only that part of an epoch's batches, which the line says, for
an epoch is longer than a quiet machine is to be had. Wall time, processor time and peak memory
are those of the process, start and reading of the data included; what the step itself measured
stands beside them.

The log is drawn, not real: users and items by power laws (exponents 0.4 and 0.6 over ranks), every
user and item at least once, half of the pairs inside the user's own of a thousand clusters of
items; every pair is a view, and 8, 15 and 12 % of the pairs are collected, carted and bought as
well, minutes later. Fifteen Parquet parts.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import subprocess
import sys
import time
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from funnelrec.common.random import stream
from funnelrec.common.version import __version__

RESULTS = Path(__file__).resolve().parent / "results/large_log.jsonl"
USERS, ITEMS, EVENTS, PARTS = 2_000_000, 2_000_000, 15_000_000, 15
CLUSTERS = 1000
FURTHER = {"collect": 0.08, "cart": 0.15, "purchase": 0.12}
DAYS = 90
GIB = 2**30

# One propagation serves some 65,000 examples: with one for every 2,048 or 1,024 an epoch would be
# hundreds of propagations.
SETTINGS: dict[str, dict[str, int]] = {
    "lightgcn": {"batch_size": 65_536},
    "rmbrec": {"batch_size": 1024, "batches_per_propagation": 64},
}
COMMON = {"epochs": 1, "validation_users": 500}
USERS_EVALUATED = 20_000
COMMAND = [sys.executable, "-m", "funnelrec"]
STEPS = ("generate", "prepare", "graphs", "lightgcn", "rmbrec", "evaluate", "recommend")
# Seconds and GiB that a step may take at full size.
BARS: dict[str, tuple[float | None, float | None]] = {
    "prepare": (90, 6),
    "graphs": (20, None),
    "lightgcn": (1200, 14),
    "rmbrec": (1200, 14),
    "evaluate": (600, None),
}


def generate(folder: Path, scale: float, seed: int) -> None:
    """Write the log as Parquet parts."""
    n_users, n_items, events = (round(scale * n) for n in (USERS, ITEMS, EVENTS))
    folder.mkdir(parents=True, exist_ok=True)
    rng = stream(seed, "large log")
    # The popular are spread over the numbers.
    user_of, item_of = rng.permutation(n_users), rng.permutation(n_items)
    once = rng.permutation(n_items)
    for part in range(PARTS):
        rng = stream(seed, "large log", part)
        rows = events * (part + 1) // PARTS - events * part // PARTS
        own = np.arange(n_users * part // PARTS, n_users * (part + 1) // PARTS)
        # More pairs than rows are needed; the surplus is cut below.
        drawn = rows - own.size
        users = np.concatenate([own, user_of[_ranks(rng, drawn, n_users, 0.4)]])
        ranks = _ranks(rng, drawn, n_items, 0.6)
        inside = rng.random(drawn) < 0.5
        cluster = users[own.size :] % CLUSTERS
        ranks[inside] += cluster[inside] - ranks[inside] % CLUSTERS
        items = np.concatenate([once[own % n_items], item_of[np.minimum(ranks, n_items - 1)]])
        frames = [(users, items, "view", rng.integers(0, DAYS * 86_400, users.size))]
        for name, share in FURTHER.items():
            chosen = rng.random(users.size) < share
            later = frames[0][3][chosen] + rng.integers(60, 86_400, int(chosen.sum()))
            frames.append((users[chosen], items[chosen], name, later))
        table = pl.concat(
            pl.DataFrame({"user_id": u, "item_id": i, "timestamp": 1_700_000_000 + t}).with_columns(
                pl.lit(name).alias("behavior")
            )
            for u, i, name, t in frames
        )
        # The first rows are everybody's own, so that no user and no item is cut away.
        surplus = rng.permutation(np.arange(own.size, table.height))[: rows - own.size]
        kept = np.concatenate([np.arange(own.size), surplus])
        table[rng.permutation(kept)].write_parquet(folder / f"part-{part:02}.parquet")


def _ranks(rng: np.random.Generator, size: int, n: int, exponent: float) -> Any:
    """Return ranks from 0 below n with a density that falls by this power."""
    return (n * rng.random(size) ** (1 / (1 - exponent))).astype(np.int64)


def graphs(dataset: Path) -> dict[str, Any]:
    """Build the graph of every behavior and return the seconds that took."""
    from funnelrec.data.dataset import Dataset
    from funnelrec.models.gradient import Graphs

    data = Dataset.load(dataset).training
    began = time.perf_counter()
    built = Graphs(data.interactions)
    seconds = time.perf_counter() - began
    return {"seconds": round(seconds, 2), "edges": [g.to_users.nnz for g in built.all]}


def epoch(dataset: Path, model: str, fraction: float) -> dict[str, Any]:
    """Train a share of one epoch's steps through the product's loop; return what they took."""
    import torch

    from funnelrec.common.memory import prefer_huge_pages
    from funnelrec.common.peak_memory import peak_memory
    from funnelrec.common.random import derived_seed
    from funnelrec.data.dataset import Dataset
    from funnelrec.models import create_model
    from funnelrec.models.gradient import GradientRecommender
    from funnelrec.training.loop import train

    prefer_huge_pages()
    data = Dataset.load(dataset).training
    created = create_model(model, config={**SETTINGS[model], **COMMON}, device="cpu")
    assert isinstance(created, GradientRecommender)
    began = time.perf_counter()
    network = created.network(data, torch.Generator().manual_seed(derived_seed(0, "weights")))
    whole = created.sampler(data)
    built = time.perf_counter() - began
    size = SETTINGS[model].get("batches_per_propagation", 1)
    steps = -(-whole.n_batches // size)
    part = Share(whole, max(1, round(steps * fraction)) * size)
    began, processor = time.perf_counter(), time.process_time()
    history = train(network, part, created.config)
    seconds, processor = time.perf_counter() - began, time.process_time() - processor
    done = -(-part.n_batches // size)
    return {
        "model": model,
        "settings": SETTINGS[model],
        "building_seconds": round(built, 1),
        "steps": [done, steps],
        "seconds": round(seconds, 1),
        "cpu_seconds": round(processor, 1),
        "epoch_seconds": round(seconds * steps / done, 1),
        "epoch_cpu_seconds": round(processor * steps / done, 1),
        "peak_gib": round((peak_memory() or 0) / GIB, 2),
        "terms": history.records[-1].terms,
        "threads": torch.get_num_threads(),
    }


class Share:
    """The first batches of another sampler."""

    def __init__(self, sampler: Any, batches: int) -> None:
        self._sampler = sampler
        self.n_batches = min(batches, sampler.n_batches)
        self.notes = sampler.notes

    def epoch(self, number: int) -> Any:
        """Yield so many batches of the epoch."""
        return islice(self._sampler.epoch(number), self.n_batches)


def lists(dataset: Path, run: Path, users: int) -> dict[str, Any]:
    """Write the top 10 of the first users and say what all of them would take."""
    import torch

    from funnelrec.cli.output import write_frames
    from funnelrec.models.runs import load_run

    model = load_run(run, dataset=dataset, device="cpu").model
    names = model.data.user_ids.decode(np.arange(users))
    began = time.perf_counter()
    rows, _ = write_frames(model.recommend_blocks(names, k=10), run / "part.parquet")
    seconds = time.perf_counter() - began
    return {
        "users": users,
        "rows": rows,
        "seconds": round(seconds, 1),
        "users_per_second": round(users / seconds, 1),
        "hours_for_all": round(model.n_users * seconds / users / 3600, 2),
        "threads": torch.get_num_threads(),
    }


def step_command(step: str, folder: Path, arguments: argparse.Namespace) -> list[str]:
    """Return the command line of a step."""
    log, dataset = folder / "log", folder / "dataset"
    itself = [sys.executable, __file__, str(folder), "--scale", str(arguments.scale)]
    if step in ("generate", "graphs"):
        return [*itself, "--inside", step]
    if step in SETTINGS and arguments.fraction < 1:
        return [*itself, "--fraction", str(arguments.fraction), "--inside", step]
    if step in SETTINGS:
        options = [f"{key}={value}" for key, value in {**SETTINGS[step], **COMMON}.items()]
        chosen = [part for option in options for part in ("--set", option)]
        run = ["--out", str(folder / f"run-{step}"), "--progress", "none"]
        return [*COMMAND, "train", str(dataset), "--model", step, *run, *chosen]
    run_of = str(folder / "run-lightgcn")
    if step == "evaluate":
        users = ["--users", str(arguments.users or USERS_EVALUATED)]
        return [*COMMAND, "evaluate", run_of, *users, "--out", str(folder / "evaluation.json")]
    if step == "recommend" and arguments.users:
        return [*itself, "--users", str(arguments.users), "--inside", step]
    if step == "recommend":
        return [*COMMAND, "recommend", run_of, "--out", str(folder / "top10.parquet")]
    if step == "prepare":
        return [*COMMAND, "prepare", str(log), "--out", str(dataset), "--name", "large-log"]
    raise SystemExit(f"unknown step {step!r}")


def run_step(step: str, folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Run a step in a process of its own and return its record."""
    command = step_command(step, folder, arguments)
    print("$", shlex.join(command), flush=True)
    before = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        output = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{step} ended with {process.returncode}:\n{output}")
    inside = [line for line in output.splitlines() if line.startswith("{")]
    limits = BARS.get(step, (None, None))
    row = {
        "step": step,
        "scale": arguments.scale,
        "seconds": round(time.perf_counter() - before, 1),
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 1),
        "peak_gib": round(usage.ru_maxrss * 1024 / GIB, 2),
        "bar": dict(zip(("seconds", "gib"), limits, strict=True)),
        "inside": json.loads(inside[-1]) if inside else None,
        "command": shlex.join(["python", *command[1:]])
        .replace(str(folder), "FOLDER")
        .replace(__file__, "benchmarks/large_log.py"),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "versions": {"funnelrec": __version__, "python": platform.python_version()},
    }
    if not inside:
        print(output)
    return row


def done(step: str, folder: Path, arguments: argparse.Namespace) -> bool:
    """Whether a whole step left its result in the folder."""
    whole = arguments.fraction == 1 and not arguments.users
    results = {
        "generate": folder / f"log/part-{PARTS - 1:02}.parquet",
        "prepare": folder / "dataset/manifest.json",
        "lightgcn": folder / "run-lightgcn/run.json",
        "rmbrec": folder / "run-rmbrec/run.json",
        "evaluate": folder / "evaluation.json",
        "recommend": folder / "top10.parquet",
    }
    return whole and step in results and results[step].exists()


def main() -> None:
    """Run the steps that are not done."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", type=Path, help="Where log, data set and runs are written.")
    parser.add_argument("--scale", type=float, default=1.0, help="Share of users, items, events.")
    parser.add_argument("--steps", nargs="*", choices=STEPS, default=STEPS)
    parser.add_argument(
        "--fraction", type=float, default=1.0, help="Share of an epoch's steps to train."
    )
    parser.add_argument(
        "--users", type=int, help="Users to evaluate (20,000), or to write lists for (all)."
    )
    parser.add_argument("--inside", choices=STEPS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    folder = arguments.folder
    if arguments.inside == "generate":
        generate(folder / "log", arguments.scale, seed=0)
        return
    if arguments.inside == "graphs":
        print(json.dumps(graphs(folder / "dataset")))
        return
    if arguments.inside in SETTINGS:
        print(json.dumps(epoch(folder / "dataset", arguments.inside, arguments.fraction)))
        return
    if arguments.inside == "recommend":
        part = lists(folder / "dataset", folder / "run-lightgcn", arguments.users)
        print(json.dumps(part))
        return
    for step in arguments.steps:
        if done(step, folder, arguments):
            print(f"{step}: done before")
            continue
        row = run_step(step, folder, arguments)
        print(json.dumps(row, indent=2))
        with RESULTS.open("a") as file:
            file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
