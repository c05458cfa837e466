from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest
from cli_helpers import funnelrec, make_dataset, make_run, refused

from evidence_models import registered
from funnelrec.models.runs import CALIBRATION, load_run
from funnelrec.serving import hesitations


@pytest.fixture(scope="module", autouse=True)
def _known() -> Iterator[None]:
    with registered():
        yield


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("shop"), "closed")


def test_a_file_for_everybody(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "h.parquet"
    shown = funnelrec("hesitations", run, "--out", out).stdout.splitlines()
    frame = pl.read_parquet(out)
    assert frame.equals(hesitations(load_run(run)))
    users = frame["user_id"].n_unique()
    assert shown[0] == f"{frame.height:,} of {frame.height:,} pairs, {users:,} users: {out}"
    counts = dict(frame["label"].value_counts().iter_rows())
    assert shown[1:4] == [
        f"{name.replace('_', ' ')}: {counts.get(name, 0):,}"
        for name in ("hesitation", "substituted", "weak_interest")
    ]
    assert shown[4].startswith("conversion of a touched pair: 0.")


def test_options_reach_the_table(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "h.parquet"
    asked = ("--top", "2", "--min-confidence", "0.3", "--user", "u00007", "--user", "u00002")
    funnelrec("hesitations", run, "--out", out, *asked)
    expected = hesitations(load_run(run), users=["u00007", "u00002"], top=2, min_confidence=0.3)
    assert expected.height == 4
    assert pl.read_parquet(out).equals(expected)
    said = funnelrec(
        *("hesitations", run, "--out", out, "--json", "--interest", "0", "--substitution", "1")
    )
    summary = json.loads(said.stdout)
    assert summary["thresholds"]["substitution"] == 1
    assert summary["labels"]["hesitation"] == summary["pairs"] == pl.read_parquet(out).height
    assert summary["out"] == str(out)


def test_users_without_a_file_are_printed(run: Path) -> None:
    shown = funnelrec("hesitations", run, "--user", "u00007", "--top", "3").stdout
    rows = [line.replace("│", " ").split() for line in shown.splitlines()]
    found = [row[1] for row in rows if row[:1] == ["u00007"]]
    expected = hesitations(load_run(run), users=["u00007"], top=3)
    assert found == expected["item_id"].to_list()
    said = json.loads(funnelrec("hesitations", run, "--user", "u00007", "--json").stdout)
    first = hesitations(load_run(run), users=["u00007"]).row(0, named=True)
    assert said["rows"][0]["conversion"] == first["conversion"]
    assert said["rows"][0]["first"] == first["first"]
    assert said["rows"][0]["behaviors"] == first["behaviors"]


def test_the_reliability_diagram(run: Path, tmp_path: Path) -> None:
    plot = tmp_path / "r.html"
    result = funnelrec("hesitations", run, "--user", "u00007", "--json", "--reliability", plot)
    assert json.loads(result.stdout)["rows"]
    assert result.stderr == f"plot: {plot}\n"
    assert "observed conversion" in plot.read_text(encoding="utf-8")


def test_training_tells_of_the_calibration(run: Path, tmp_path: Path) -> None:
    data = make_dataset(run.parent)
    out = tmp_path / "run"
    shown = funnelrec("train", data, "--model", "closed", "--out", out, "--refit").stdout
    calibration = load_run(out).calibration
    assert calibration is not None
    scale = calibration.confidence
    assert (
        f"confidence calibrated on validation: ECE {scale.before.ece:.4f} -> {scale.after.ece:.4f}"
        in shown
    )
    assert shown.endswith(f"next: funnelrec hesitations {out} --out hesitations.parquet\n")


def test_without_a_calibration_the_raw_numbers_are_given(run: Path, tmp_path: Path) -> None:
    data = make_dataset(run.parent)
    bare = tmp_path / "run"
    funnelrec("train", data, "--model", "closed", "--out", bare)
    (bare / CALIBRATION).unlink()
    out = tmp_path / "h.parquet"
    result = funnelrec("hesitations", bare, "--out", out)
    assert result.stderr.startswith("note: there is no calibration, because fewer than 10")
    assert result.stdout.count("\n") == 1
    frame = pl.read_parquet(out)
    assert frame["label"].null_count() == frame.height > 0
    assert frame["weight"].null_count() == 0
    message = refused("hesitations", bare, "--out", out, "--reliability", tmp_path / "r.png")
    assert message.startswith("--reliability has nothing to show: there is no calibration")


def test_mistakes(run: Path, tmp_path: Path) -> None:
    out = ("--out", tmp_path / "h.parquet")
    assert refused("hesitations", run).startswith("name users with --user, or a file for all")
    assert "--out must end in .parquet" in refused("hesitations", run, "--out", tmp_path / "h.csv")
    assert "'nobody'" in refused("hesitations", run, "--user", "nobody", *out)
    assert "top must be" in refused("hesitations", run, "--top", "0", *out)
    assert "min_confidence must lie between" in refused(
        "hesitations", run, "--min-confidence", "2", *out
    )
    assert "interest: must be greater" in refused("hesitations", run, "--interest", "-1", *out)
    assert "a plot is written as" in refused("hesitations", run, *out, "--reliability", "r.txt")
    assert "is no finished run" in refused("hesitations", tmp_path, *out)
    rule = make_run(run.parent, "popularity")
    for command in (("hesitations", rule, *out), ("explain", rule, "--user", "u00007")):
        assert refused(*command).startswith("popularity gives no evidence of hesitation")
    assert list(tmp_path.iterdir()) == []


def test_explain(run: Path, tmp_path: Path) -> None:
    shown = funnelrec("explain", run, "--user", "u00007", "--candidates", "2").stdout
    rows = [line.replace("│", " ").split() for line in shown.splitlines()]
    items = hesitations(load_run(run), users=["u00007"], top=2)["item_id"].to_list()
    assert [row[0] for row in rows if row[:1] and row[0] in items] == items
    out = tmp_path / "e.json"
    result = funnelrec("explain", run, "--user", "u00007", "--out", out, "--json")
    assert json.loads(result.stdout) == json.loads(out.read_text())
    assert result.stderr == f"explanation: {out}\n"
    picture = tmp_path / "e.png"
    assert funnelrec("explain", run, "--user", "u00007", "--out", picture).stdout == (
        f"explanation: {picture}\n"
    )
    assert picture.stat().st_size > 10_000
    assert "is written as" in refused("explain", run, "--user", "u00007", "--out", "e.gif")
    assert "'nobody'" in refused("explain", run, "--user", "nobody")
