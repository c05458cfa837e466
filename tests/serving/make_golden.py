"""Writes the golden artifacts of a release: python tests/serving/make_golden.py.

Run once for each schema, before the release that introduces it; what is there is never written
again, because later releases must go on reading it.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from funnelrec.common.version import __version__
from funnelrec.data.dataset import TrainingData
from funnelrec.evaluation.evidence import EvidenceModel
from funnelrec.models import create_model
from funnelrec.models.runs import train_run
from funnelrec.serving import hesitations
from funnelrec.serving.artifact import export, load_artifact
from funnelrec.testing import tiny_dataset

GOLDEN = Path(__file__).parent / "golden"
MODELS = {
    "rmbrec": {"dim": 4, "epochs": 2, "batch_size": 16, "layers": 2},
    "itemknn": {"neighbors": 3},
    "charm": {"dim": 4, "epochs": 1, "batch_size": 16, "layers": 1},
}


# Columns that hold no dates.
HESITATIONS = ("user_id", "item_id", "label", "confidence", "weight", "evidence", "conversion")


def history_of(data: TrainingData) -> list[tuple[str, str, str]]:
    """Return the events of somebody new."""
    items = data.item_ids.values.head(3).to_list()
    history = [("somebody new", item, data.behaviors[0]) for item in items]
    return [*history, ("somebody new", items[0], data.target)]


def main() -> None:
    """Write what is not there yet."""
    for name, settings in MODELS.items():
        # Enough validation purchases of touched items for a calibration, where there is one.
        size = {"n_users": 40, "density": 0.4} if name == "charm" else {"n_users": 14}
        dataset = tiny_dataset(3, n_items=10, **size)
        place = GOLDEN / f"{name}-{__version__}"
        if place.exists():
            print(f"{place} stays as it is.")
            continue
        place.mkdir(parents=True)
        with tempfile.TemporaryDirectory() as folder:
            model = create_model(name, device="cpu", **settings)
            run = train_run(
                dataset, model, Path(folder) / "run", source=folder, refit=False, progress="none"
            )
            export(run, place / "artifact")
        expected: dict[str, Any] = {
            "scores": model.score(np.arange(model.n_users)).tolist(),
            "recommended": model.recommend(k=3).select("user_id", "item_id", "rank").rows(),
        }
        if model.capabilities.folds_in_new_users:
            history = history_of(model.data)
            columns = ["user_id", "item_id", "behavior"]
            frame = pl.DataFrame(history, schema=columns, orient="row")
            expected["history"] = history
            expected["folded"] = model.fold_in(frame).score([0])[0].tolist()
        if isinstance(model, EvidenceModel):
            found = hesitations(load_artifact(place / "artifact", device="cpu"))
            expected["hesitations"] = found.select(HESITATIONS).to_dict(as_series=False)
        (place / "expected.json").write_text(json.dumps(expected) + "\n")


if __name__ == "__main__":
    main()
