"""Speed and memory of the hesitation table: pairs per second, and the largest resident size.

    python benchmarks/hesitations.py                     # CHARM, 10 million pairs, two threads
    python benchmarks/hesitations.py --model null        # everything but the model

A synthetic shop is drawn and a model is fitted to it for one epoch (its weights play no part in
the speed), in one process; another one loads the run and writes the table, and only that one is
measured. Prints one JSON object with machine and versions.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import torch

from funnelrec.common.config import Config
from funnelrec.common.random import stream
from funnelrec.common.version import __version__
from funnelrec.data.dataset import Dataset
from funnelrec.data.interactions import Interactions
from funnelrec.evaluation.evidence import CompetitorTable, PairEvidence
from funnelrec.models import create_model
from funnelrec.models.base import register
from funnelrec.models.runs import load_run, train_run
from funnelrec.serving import write_hesitations
from funnelrec.testing import make_dataset
from funnelrec.testing.models import Unranked

# The weights play no part in the speed, so they are cheap to come by.
CHARM: dict[str, Any] = {
    "preset": "practical",
    "epochs": 1,
    "batch_size": 2**15,
    "least_batches": 1,
    "negatives": 64,
    "layers": 1,
    "dim": 64,
}
PAIRS_PER_USER = 100
PURCHASES_PER_USER = 8


@register
class Null(Unranked[Config]):
    """Evidence that costs next to nothing, to measure the rest."""

    name = "null"
    summary = "Evidence that costs next to nothing."

    def pair_evidence(self, users: Any, items: Any) -> PairEvidence:
        # Multiplicative hashing: values without structure, so that sorting is no easier than usual.
        w = ((users * 2_654_435_761 + items * 40_503) % 65_536).astype(np.float32) / 65_536
        r = ((users * 40_503 + items * 2_654_435_761) % 65_536).astype(np.float32) / 65_536
        first = self.data.purchases.indices[self.data.purchases.indptr[users]]
        return PairEvidence(w * 4 - 2, w, r, w * (1 - r), first.astype(np.int64), r)

    def competitor_table(self, user: int, items: Any) -> CompetitorTable:
        raise NotImplementedError


def shop(pairs: int, seed: int) -> Dataset:
    """Return a shop with about so many touched, not bought pairs; a tenth of users validate."""
    rng = stream(seed, "benchmark")
    n_users = max(pairs // PAIRS_PER_USER, 2)
    n_items = max(n_users // 2, 4 * PAIRS_PER_USER)
    shape = {"n_users": n_users, "n_items": n_items}
    users = np.repeat(np.arange(n_users), PAIRS_PER_USER)
    # The square puts more weight on few items, as in a shop.
    items = (rng.random(users.size) ** 2 * n_items).astype(np.int64)
    touched = Interactions.from_pairs(users, items, **shape)
    buyers = np.repeat(np.arange(n_users), PURCHASES_PER_USER)
    bought = (rng.random(buyers.size) ** 2 * n_items).astype(np.int64)
    next_place = touched.indptr[:-1:10] + rng.integers(0, np.diff(touched.indptr)[::10])
    next_items = touched.indices[next_place]
    purchases = Interactions.from_pairs(buyers, bought, **shape)
    validators = np.arange(0, n_users, 10)
    new = ~purchases.contains(validators, next_items)
    carted = rng.random(touched.nnz) < 0.2
    dates = rng.integers(0, 10**9, touched.nnz)

    def dated(part: Interactions, when: Any) -> Interactions:
        return Interactions(
            n_users=n_users,
            n_items=n_items,
            indptr=part.indptr,
            indices=part.indices,
            counts=part.counts,
            first=when,
            last=when,
        )

    view = dated(touched, dates)
    return make_dataset(
        {
            "view": view,
            "cart": view.select(carted),
            "purchase": dated(purchases, rng.integers(0, 10**9, purchases.nnz)),
        },
        validation=dated(
            Interactions.from_pairs(validators[new], next_items[new], **shape),
            np.zeros(int(new.sum()), np.int64),
        ),
    )


def build(folder: Path, model: str, pairs: int) -> None:
    """Draw the shop and fit the model, into ``folder``."""
    dataset = shop(pairs, seed=0)
    dataset.save(folder / "data")
    settings: dict[str, Any] = CHARM if model == "charm" else {}
    created = create_model(model, device="cpu", **settings)
    train_run(dataset, created, folder / "run", source=folder / "data", progress="none")


def measure(folder: Path, top: int | None) -> dict[str, Any]:
    """Write the table of the run in ``folder`` and return what that took."""
    began = time.perf_counter()
    run = load_run(folder / "run", device="cpu")
    loaded, spent = time.perf_counter(), time.process_time()
    out = folder / "hesitations.parquet"
    summary = write_hesitations(out, run, top=top)
    seconds, spent = time.perf_counter() - loaded, time.process_time() - spent
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {
        "model": run.record.model,
        "pairs": summary.considered,
        "rows": summary.pairs,
        "labels": summary.labels,
        "calibrated": run.calibration is not None,
        "load_seconds": round(loaded - began, 2),
        "seconds": round(seconds, 2),
        "cpu_seconds": round(spent, 2),
        "pairs_per_second": round(summary.considered / seconds),
        "peak_memory_gib": round(peak / 2**30, 2),
        "file_mib": round(out.stat().st_size / 2**20, 1),
        "threads": torch.get_num_threads(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python "
        f"{platform.python_version()}",
        "versions": {
            "funnelrec": __version__,
            "torch": torch.__version__,
            "numpy": np.__version__,
            "polars": pl.__version__,
            "pyarrow": pa.__version__,
        },
    }


def main() -> None:
    """Parse the command line; build and measure in processes of their own."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default="charm", choices=["charm", "null"])
    parser.add_argument("--pairs", type=int, default=10_000_000)
    parser.add_argument("--top", type=int)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="keep data and run here, and use them again")
    parser.add_argument("--step", choices=["build", "measure"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.step == "build":
        build(arguments.folder, arguments.model, arguments.pairs)
    elif arguments.step == "measure":
        print(json.dumps(measure(arguments.folder, arguments.top), indent=2))
    else:
        with tempfile.TemporaryDirectory() as temporary:
            folder = arguments.folder or Path(temporary)
            environment = {**os.environ, "POLARS_MAX_THREADS": str(arguments.threads)}
            steps = ["measure"] if (folder / "run/run.json").exists() else ["build", "measure"]
            for step in steps:
                command = [sys.executable, __file__, *sys.argv[1:], "--step", step]
                if arguments.folder is None:
                    command += ["--folder", temporary]
                subprocess.run(command, check=True, env=environment)


if __name__ == "__main__":
    main()
