"""What the tests of the explorer share: something to explore, the pages, the server."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from funnelrec.comparison import compare
from funnelrec.comparison.document import RESULTS, SIGNIFICANCE
from funnelrec.comparison.entries import Entry
from funnelrec.comparison.summary import groups, results_frame, significance_frame
from funnelrec.data.dataset import Dataset
from funnelrec.data.events import read_events
from funnelrec.data.preparation import prepare
from funnelrec.data.simulation import simulate_shop
from funnelrec.explorer.source import Wanted
from funnelrec.models import create_model
from funnelrec.models.runs import train_run
from funnelrec.serving.artifact import export

PATIENCE = 120.0
ODD_USER, ODD_ITEM = "a*b*c", ":red[x] $1$"
CHARM: dict[str, Any] = {"dim": 8, "epochs": 3, "batch_size": 256, "layers": 1}


@contextmanager
def serving(
    *arguments: str | Path, environment: Mapping[str, str]
) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Run ``funnelrec explore`` on a free port; give its address and its process."""
    command = [sys.executable, "-m", "funnelrec", "explore", *map(str, arguments), "--port", "0"]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, **environment},
    ) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line.startswith("explorer: http://127.0.0.1:"), line + process.stdout.read()
            address = line.split()[1]
            _wait(address, process)
            yield address, process
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
            try:
                process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                process.kill()


def _wait(address: str, process: subprocess.Popen[str]) -> None:
    ends = time.monotonic() + PATIENCE
    while time.monotonic() < ends:
        try:
            with urllib.request.urlopen(f"{address}/_stcore/health", timeout=2):
                return
        except OSError:
            assert process.poll() is None
            time.sleep(0.1)
    raise AssertionError("the server did not answer")


@dataclass(frozen=True)
class Folders:
    """Where everything is; nothing writes into it."""

    dataset: Path
    run: Path
    refitted: Path
    artifact: Path
    comparison: Path


def shop() -> Dataset:
    """Return a dated shop of 120 users and 60 items; two names are such as Markdown would read."""
    made = simulate_shop(n_users=120, n_items=60, n_categories=6, seed=4)
    events = made.events.with_columns(
        pl.col("user_id").replace("u00005", ODD_USER),
        pl.col("item_id").replace("i00005", ODD_ITEM),
        pl.from_epoch("timestamp"),
    )
    return prepare(read_events(events, behaviors=made.behaviors), name="small shop")


def folders_in(factory: pytest.TempPathFactory) -> Folders:
    """Return the folders of one shop: runs, the artifact of one, a comparison; made once."""
    return _made(factory.getbasetemp() / "explored")


@cache
def _made(root: Path) -> Folders:
    where = Folders(*(root / name for name in ("data", "run", "refit", "artifact", "compared")))
    dataset = shop()
    dataset.save(where.dataset)
    charm = create_model("charm", preset="practical", device="cpu", **CHARM)
    train_run(dataset, charm, where.run, source=where.dataset, progress="none")
    knn = create_model("itemknn", device="cpu")
    train_run(dataset, knn, where.refitted, source=where.dataset, refit=True, progress="none")
    export(where.run, where.artifact)
    entries = [Entry(name, name) for name in ("popularity", "conversion", "itemknn")]
    entries.append(Entry("plain", "conversion", refit=False))
    compared = compare(
        where.dataset,
        entries,
        where.comparison,
        seeds=2,
        ks=(10,),
        isolate=False,
        progress="none",
        device="cpu",
    )
    results_frame(compared).write_parquet(where.comparison / RESULTS)
    tables = groups(compared, [], draws=50)
    significance_frame(tables).write_parquet(where.comparison / SIGNIFICANCE)
    return where


def wanted(
    folders: Folders,
    *,
    path: Path | None = None,
    dataset: Path | None = None,
    compare: Path | None = None,
) -> Wanted:
    """Return what opens a folder, the run if not told otherwise, with the comparison."""
    return Wanted(
        str(path or folders.run),
        None if dataset is None else str(dataset),
        str(compare or folders.comparison),
        device="cpu",
    )
