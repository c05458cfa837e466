"""Holds an installed wheel to working by itself: `make wheel` runs this in an empty environment.

    python -I tests/check_wheel.py

Needs nothing but the package and the golden artifacts beside this file: no test tool, no optional
group, no source folder on the path.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from importlib.metadata import metadata, version
from importlib.resources import files
from pathlib import Path

GOLDEN = Path(__file__).resolve().parent / "serving/golden"
FUNNELREC = Path(sys.executable).parent / "funnelrec"
TOOLS = ("pytest", "mypy", "ruff", "hypothesis", "plotly", "matplotlib", "optuna", "fastapi")


def main() -> None:
    """Check what was installed, what it says, and what it does."""
    for tool in TOOLS:
        assert importlib.util.find_spec(tool) is None, f"{tool} is installed: not an empty place"
    import funnelrec

    source = Path(funnelrec.__file__).resolve().parent
    assert source.is_relative_to(Path(sys.prefix).resolve()), f"{source} is not the installed one"
    assert files("funnelrec").joinpath("py.typed").is_file(), "py.typed is missing"
    assert funnelrec.__version__ == version("funnelrec")
    assert metadata("funnelrec")["License-Expression"] == "Apache-2.0"
    golden()
    with tempfile.TemporaryDirectory() as folder:
        main_job(Path(folder))
    print(f"funnelrec {funnelrec.__version__}: the wheel works by itself.")


def golden() -> None:
    """Hold artifacts of this release and of earlier ones to their lists."""
    import polars as pl

    from funnelrec.serving.artifact import load_artifact

    places, folded_in = sorted(GOLDEN.iterdir()), 0
    assert len(places) >= 2, f"no golden artifacts in {GOLDEN}"
    for place in places:
        expected = json.loads((place / "expected.json").read_text())
        model = load_artifact(place / "artifact").model
        lists = model.recommend(k=3).select("user_id", "item_id", "rank").rows()
        assert [list(row) for row in lists] == expected["recommended"], place.name
        if not model.capabilities.folds_in_new_users:
            assert "history" not in expected, place.name
            continue
        folded_in += 1
        columns = ["user_id", "item_id", "behavior"]
        history = pl.DataFrame(expected["history"], schema=columns, orient="row")
        folded = model.fold_in(history).score([0])[0].tolist()
        worst = max(abs(a - b) for a, b in zip(folded, expected["folded"], strict=True))
        assert worst < 1e-5, f"{place.name}: folded-in scores are off by {worst}"
    assert folded_in >= 2, "no golden artifact folded a user in"


def main_job(folder: Path) -> None:
    """Go from a log to recommendations on the command line, and ask for what is not there."""
    _run(folder, "simulate --out events.parquet --users 80 --items 60 --set n_categories=6")
    _run(folder, "prepare events.parquet --out dataset")
    _run(folder, "train dataset --model rmbrec --out run --set epochs=2 --progress none")
    said = json.loads(_run(folder, "evaluate run --json"))
    assert 0 <= said["overall"]["hr@10"] <= 1
    _run(folder, "export run --out artifact")
    _run(folder, "recommend artifact --k 5 --out lists.parquet")

    import polars as pl

    lists = pl.read_parquet(folder / "lists.parquet")
    assert lists.group_by("user_id").len()["len"].unique().to_list() == [5]
    # What needs an optional group says which one to install.
    refused = _run(folder, "serve artifact", code=2)
    assert "pip install 'funnelrec[serve]'" in " ".join(refused.split()), refused


def _run(folder: Path, words: str, *, code: int = 0) -> str:
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [FUNNELREC, *words.split()],
        cwd=folder,
        env={**environment, "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, f"funnelrec {words}: {done.returncode}\n{done.stderr}"
    return done.stdout if code == 0 else done.stderr


if __name__ == "__main__":
    main()
