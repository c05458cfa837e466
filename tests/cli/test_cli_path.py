"""The main job from end to end, as a person types it."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
from cli_helpers import funnelrec


def test_from_an_event_log_to_recommendations(tmp_path: Path) -> None:
    events, dataset, out = tmp_path / "e.parquet", tmp_path / "ds", tmp_path / "recs.parquet"
    funnelrec("simulate", "--out", events, "--users", "200", "--items", "100", "--seed", "1")
    funnelrec("prepare", events, "--out", dataset, "--behaviors", "view,collect,cart,purchase")
    funnelrec("diagnose", dataset)
    results = {}
    for model, options in (("rmbrec", ["--set", "epochs=15", "--refit"]), ("popularity", [])):
        run = tmp_path / model
        funnelrec("train", dataset, "--model", model, "--out", run, *options)
        results[model] = json.loads(funnelrec("evaluate", run, "--json").stdout)
    assert results["rmbrec"]["protocol"]["refit"] is True
    assert results["popularity"]["protocol"]["refit"] is False
    assert results["rmbrec"]["overall"]["users"] == results["popularity"]["overall"]["users"]
    # The shop's purchases follow its views, and popularity cannot see them.
    assert (
        results["rmbrec"]["overall"]["ndcg@10"] > 1.2 * results["popularity"]["overall"]["ndcg@10"]
    )
    funnelrec("recommend", tmp_path / "rmbrec", "--k", "5", "--out", out)
    recommended = pl.read_parquet(out)
    log = pl.read_parquet(events)
    assert set(recommended["user_id"]) <= set(log["user_id"])
    assert set(recommended["item_id"]) <= set(log["item_id"])
    assert recommended["rank"].max() == 5
