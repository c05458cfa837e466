from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest
from cli_helpers import funnelrec, make_dataset, make_run, refused

from funnelrec.models.runs import load_run


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("shop")


@pytest.fixture
def run(shop: Path) -> Path:
    return make_run(shop, "conversion")


def test_one_json_object(run: Path) -> None:
    result = json.loads(funnelrec("evaluate", run, "--json").stdout)
    assert list(result) == ["protocol", "overall", "conversion", "discovery"]
    expected = load_run(run).evaluate()
    assert result == json.loads(json.dumps(expected.to_dict()))
    for name in ("overall", "conversion", "discovery"):
        assert {"users", "hr@10", "ndcg@10", "hr@20", "ndcg@20"} <= set(result[name])
    split = result["overall"]["users"]
    assert result["conversion"]["users"] + result["discovery"]["users"] == split
    assert result["protocol"]["model"] == "conversion"
    assert result["protocol"]["masked"] == ["train-target"]


def test_the_table_shows_the_three_lines(run: Path) -> None:
    values = load_run(run).evaluate().slices
    lines = funnelrec("evaluate", run).stdout.replace("│", " ").splitlines()
    for name in ("overall", "conversion", "discovery"):
        columns = ("hr@10", "ndcg@10", "hr@20", "ndcg@20")
        cells = [f"{values[name][column]:.4f}" for column in columns]
        assert [name, str(values[name]["users"]), *cells] in [line.split() for line in lines]


def test_options_reach_the_protocol(run: Path) -> None:
    options = ("--split", "validation", "--k", "3, 7", "--mask", "none", "--json")
    result = json.loads(funnelrec("evaluate", run, *options).stdout)
    protocol = result["protocol"]
    assert (protocol["evaluated"], protocol["ks"], protocol["masked"]) == ("validation", [3, 7], [])
    assert "hr@7" in result["overall"]
    several = ("--mask", "train-target,validation", "--json")
    masked = json.loads(funnelrec("evaluate", run, *several).stdout)["protocol"]["masked"]
    assert masked == ["train-target", "validation"]


def test_sampled_candidates_are_labelled(run: Path) -> None:
    options = ("--sampled", "9", "--sampled-seed", "4", "--json")
    result = json.loads(funnelrec("evaluate", run, *options).stdout)
    assert result["protocol"]["candidates"] == "sampled-9 seed 4"
    assert "sampled-9/hr@10" in result["overall"]
    assert "hr@10" not in result["overall"]


def test_files(run: Path, tmp_path: Path) -> None:
    users, out = tmp_path / "users.parquet", tmp_path / "sub" / "result.json"
    result = funnelrec("evaluate", run, "--per-user", users, "--out", out, "--json")
    assert json.loads(out.read_text()) == json.loads(result.stdout)
    assert pl.read_parquet(users).height == json.loads(result.stdout)["overall"]["users"]
    note, *files = result.stderr.splitlines()
    assert note.startswith("note: ")
    assert "train with --refit to use them" in note
    assert files == [f"per user: {users}", f"result: {out}"]


def test_a_data_set_that_moved(shop: Path, tmp_path: Path) -> None:
    dataset, run = tmp_path / "here", tmp_path / "run"
    make_dataset(shop)
    funnelrec("prepare", shop / "events.parquet", "--out", dataset)
    funnelrec("train", dataset, "--model", "popularity", "--out", run)
    before = funnelrec("evaluate", run, "--json").stdout
    dataset.rename(tmp_path / "there")
    assert "say where it is with --dataset" in refused("evaluate", run)
    moved = funnelrec("evaluate", run, "--dataset", tmp_path / "there", "--json").stdout
    assert moved == before
    funnelrec("prepare", shop / "events.parquet", "--out", dataset, "--split", "time")
    assert "is not the one this run was trained on" in refused("evaluate", run)


def test_mistakes(run: Path, shop: Path, tmp_path: Path) -> None:
    assert refused("evaluate", tmp_path).startswith(f"{tmp_path} is no finished run:")
    message = "--k must be whole numbers separated by commas, got '10;20'."
    assert refused("evaluate", run, "--k", "10;20") == message
    assert "at least 1" in refused("evaluate", run, "--k", "0")
    assert "at least one list length" in refused("evaluate", run, "--k", "")
    assert "did you mean 'touched'" in refused("evaluate", run, "--mask", "touchd")
    assert "would hide the very pairs" in refused(
        "evaluate", run, "--mask", "validation", "--split", "validation"
    )
    assert "lower n" in refused("evaluate", run, "--sampled", "100000")
    assert "--per-user must end in" in refused("evaluate", run, "--per-user", tmp_path / "u.txt")
    assert "a folder of that name exists" in refused("evaluate", run, "--out", tmp_path)
    refitted = make_run(shop, "popularity", "--refit")
    assert "they were added to training" in refused("evaluate", refitted, "--split", "validation")


def test_drawn_users_are_part_of_the_protocol(run: Path) -> None:
    options = ("--users", "7", "--users-seed", "3", "--json")
    drawn = json.loads(funnelrec("evaluate", run, *options).stdout)
    assert drawn["overall"]["users"] == 7
    assert drawn["protocol"]["users"] == "drawn-7 seed 3"
