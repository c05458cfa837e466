from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest
from cli_helpers import funnelrec, make_dataset, make_log, refused

HERE = ("--no-isolate", "--progress", "none", "--device", "cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shop")
    make_dataset(folder)
    return folder


def test_one_table_and_nothing_repeated(folder: Path, tmp_path: Path) -> None:
    spec = tmp_path / "entries.json"
    small = {"model": "rmbrec", "preset": "paper", "settings": {"dim": 4, "epochs": 2}}
    spec.write_text(json.dumps({"small": small}))
    out = tmp_path / "out"
    names = "popularity,conversion,itemknn,small"
    words = ("compare", folder / "dataset", "--models", names, "--spec", spec, "--out", out)
    asked = (*words, "--seeds", "2", "--tune", "2", "--k", "5", "--sensitivity", "small.dim=2,4")
    result = funnelrec(*asked, *HERE)
    said = result.stderr.splitlines()
    # Searches of itemknn, conversion and rmbrec, then 3 + 2 trainings, then two of the grid.
    steps = [line for line in said if line.startswith("[")]
    assert said[0] == f"{len(steps)} to do"
    assert steps[0].startswith(f"[1/{len(steps)}] ")
    assert steps[0].endswith(f"{len(steps) - 1} after this; no time known yet")
    assert "small, seed 1; " in result.stderr
    assert "; the last one; about " in steps[-1]
    table, *rest = result.stdout.split("Overall, ")
    assert "no draws" in table
    assert " leads with NDCG@10 " in rest[0]
    frame = pl.read_parquet(out / "results.parquet")
    best = frame.filter(
        (pl.col("kind") == "main") & (pl.col("split") == "test") & (pl.col("slice") == "overall")
    )
    for value in best.filter(~pl.col("draws"))["hr@5"]:
        assert f"{value:.4f}" in table
    assert best["entry"].to_list() == ["popularity", "conversion", "itemknn", "small", "small"]
    assert set(best.filter(pl.col("entry") == "small")["preset"]) == {"paper"}
    text = (out / "comparison.md").read_text()
    assert f"funnelrec compare {folder / 'dataset'} --models {names}" in text
    again = funnelrec(*asked, *HERE)
    assert again.stderr == f"0 to do, {len(steps)} finished before\n"
    assert again.stdout == result.stdout


def test_a_failure_is_told_and_the_exit_code_is_1(folder: Path, tmp_path: Path) -> None:
    dataset = tmp_path / "purchases"
    log = make_log(folder)
    bought = pl.read_parquet(log).filter(pl.col("behavior") == "purchase")
    bought.write_parquet(tmp_path / "log.parquet")
    funnelrec("prepare", tmp_path / "log.parquet", "--out", dataset, "--behaviors", "purchase")
    words = ("--models", "popularity,conversion", "--seeds", "1", "--out", tmp_path / "out")
    result = funnelrec("compare", dataset, *words, *HERE, code=1)
    (last,) = [line for line in result.stderr.splitlines() if line.startswith("failed: ")]
    assert last.startswith("failed: conversion, seed 0: conversion learns from behaviors besides")
    assert "popularity" in result.stdout


def test_mistakes(folder: Path, tmp_path: Path) -> None:
    base = ("compare", folder / "dataset", "--out", tmp_path / "out")
    assert refused(*base) == "there is nothing to compare; name at least one model."
    assert "did you mean 'rmbrec'" in refused(*base, "--models", "rmbrek")
    models = (*base, "--models", "popularity")
    assert "KEY=V1,V2,..., got 'dim'" in refused(*models, "--sensitivity", "dim")
    twice = ("--sensitivity", "dim=1", "--sensitivity", "dim=2")
    assert "names 'dim' twice" in refused(*models, *twice)
    assert "--k must be whole numbers" in refused(*models, "--k", "ten")
    assert "no such file" in refused(*models, "--spec", tmp_path / "gone.toml")
    assert "no prepared data set" in refused("compare", tmp_path, *models[2:])
    assert not (tmp_path / "out").exists()


def test_control_c_says_how_to_go_on(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("funnelrec.comparison.runner.attempt", interrupted)
    words = ("--models", "popularity", "--out", tmp_path / "out", *HERE)
    assert funnelrec("compare", folder / "dataset", *words, code=130).stderr.splitlines()[-1] == (
        "error: interrupted; the same command goes on without repeating a finished training."
    )
