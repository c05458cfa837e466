from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
from cli_helpers import funnelrec, refused

from funnelrec.data.simulation import simulate_shop
from funnelrec.data.simulation.config import ShopConfig


def test_the_files_are_the_shop(tmp_path: Path) -> None:
    events, truth = tmp_path / "sub" / "events.parquet", tmp_path / "truth.csv"
    shown = funnelrec(
        *("simulate", "--out", events, "--truth", truth, "--users", "40", "--items", "50"),
        *("--seed", "5", "--set", "noise=0.2", "--set", "n_categories=10"),
    ).stdout
    shop = simulate_shop(n_users=40, n_items=50, seed=5, noise=0.2, n_categories=10)
    assert pl.read_parquet(events).equals(shop.events)
    assert pl.read_csv(truth)["label"].to_list() == shop.truth["label"].to_list()
    purchases = shop.events.filter(pl.col("behavior") == "purchase").height
    assert f"purchase events │ {purchases:,}" in " ".join(shown.split())
    assert f"next: funnelrec prepare {events} --out DATASET" in shown


def test_the_help_names_the_sizes_that_are_taken() -> None:
    said = " ".join(funnelrec("simulate", "--help").stdout.split())
    for size in (ShopConfig().n_users, ShopConfig().n_items):
        assert f"of the shop; {size:,} if not given." in said


def test_mistakes(tmp_path: Path) -> None:
    out = tmp_path / "events.parquet"
    assert refused("simulate", "--out", tmp_path / "events.txt").startswith(
        "--out must end in .parquet or .csv, got"
    )
    (tmp_path / "folder.csv").mkdir()
    assert "is a folder" in refused("simulate", "--out", out, "--truth", tmp_path / "folder.csv")
    assert "did you mean 'noise'" in refused("simulate", "--out", out, "--set", "nois=0.2")
    assert "must be written key=value" in refused("simulate", "--out", out, "--set", "noise")
    assert "'n_users' is given twice" in refused(
        "simulate", "--out", out, "--set", "n_users=5", "--users", "6"
    )
    assert "greater than or equal to 1, got 0" in refused("simulate", "--out", out, "--users", "0")
    assert "n_categories must be at most n_items (30), got 40; lower it, raise n_items, or" in (
        refused("simulate", "--out", out, "--items", "30", "--set", "n_categories=40")
    )
    assert "seed must lie between" in refused("simulate", "--out", out, "--seed", "-1")
    assert not out.exists()


def test_a_small_shop_needs_no_further_setting(tmp_path: Path) -> None:
    out = tmp_path / "events.parquet"
    funnelrec("simulate", "--out", out, "--users", "20", "--items", "30")
    assert pl.read_parquet(out)["item_id"].n_unique() <= 30


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a place without files")
def test_a_place_that_takes_no_file() -> None:
    message = refused("simulate", "--out", "/proc/x.parquet", "--users", "5", "--items", "30")
    assert message == "cannot write /proc/x.parquet: No such file or directory."
