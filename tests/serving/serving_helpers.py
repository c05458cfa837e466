"""What the tests of artifacts and of the service share: small runs and artifacts of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from funnelrec.data.dataset import Dataset
from funnelrec.models import create_model
from funnelrec.models.runs import Run, train_run
from funnelrec.serving.artifact import Artifact, export, load_artifact

TINY: dict[str, dict[str, Any]] = {
    "lightgcn": {"dim": 8, "epochs": 2, "batch_size": 64, "layers": 2},
    "mf_bpr": {"dim": 8, "epochs": 1, "batch_size": 64},
    "rmbrec": {"dim": 8, "epochs": 2, "batch_size": 64, "layers": 2},
    "simgcl": {"dim": 8, "epochs": 1, "batch_size": 64},
    "charm": {"dim": 8, "epochs": 1, "batch_size": 64, "layers": 1},
    "ials": {"dim": 8, "iterations": 2},
}


def make_run(dataset: Dataset, folder: Path, name: str, *, refit: bool = False) -> Run:
    """Train a model on a stored copy of the data set."""
    place = folder / "dataset"
    if not place.exists():
        dataset.save(place)
    model = create_model(name, device="cpu", **TINY.get(name, {}))
    out = folder / f"run-{name}{'-refit' * refit}"
    return train_run(dataset, model, out, source=place, refit=refit, progress="none")


def make_artifact(dataset: Dataset, folder: Path, name: str) -> Artifact:
    """Train a model and export it."""
    export(make_run(dataset, folder, name), folder / f"artifact-{name}")
    return load_artifact(folder / f"artifact-{name}", device="cpu")
