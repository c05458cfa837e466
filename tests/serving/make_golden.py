"""Writes the golden artifacts of a release: python tests/serving/make_golden.py.

Run once for each schema, before the release that introduces it; what is there is never written
again, because later releases must go on reading it.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import numpy as np
import polars as pl

from funnelrec.common.version import __version__
from funnelrec.models import create_model
from funnelrec.models.runs import train_run
from funnelrec.serving.artifact import export
from funnelrec.testing import tiny_dataset

GOLDEN = Path(__file__).parent / "golden"
MODELS = {
    "rmbrec": {"dim": 4, "epochs": 2, "batch_size": 16, "layers": 2},
    "itemknn": {"neighbors": 3},
}


def main() -> None:
    """Write what is not there yet."""
    dataset = tiny_dataset(3, n_users=14, n_items=10)
    for name, settings in MODELS.items():
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
        data = model.data
        items = data.item_ids.values.head(3).to_list()
        history = [("somebody new", item, data.behaviors[0]) for item in items]
        history.append(("somebody new", items[0], data.target))
        columns = ["user_id", "item_id", "behavior"]
        folded = model.fold_in(pl.DataFrame(history, schema=columns, orient="row")).score([0])[0]
        expected = {
            "scores": model.score(np.arange(data.n_users)).tolist(),
            "recommended": model.recommend(k=3).select("user_id", "item_id", "rank").rows(),
            "history": history,
            "folded": folded.tolist(),
        }
        (place / "expected.json").write_text(json.dumps(expected) + "\n")


if __name__ == "__main__":
    main()
