from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
from cli_helpers import funnelrec, make_run, refused

from funnelrec.models.runs import load_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("shop"), "conversion")


def test_a_file_for_everybody(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "recs.parquet"
    shown = funnelrec("recommend", run, "--k", "4", "--out", out).stdout
    frame = pl.read_parquet(out)
    assert frame.equals(load_run(run).model.recommend(k=4))
    assert frame.columns == ["user_id", "item_id", "score", "rank"]
    users = frame["user_id"].n_unique()
    assert shown == f"{frame.height:,} recommendations for {users} users: {out}\n"


def test_named_users(run: Path, tmp_path: Path) -> None:
    out, names = tmp_path / "recs.csv", tmp_path / "users.csv"
    pl.DataFrame({"user_id": ["u00003", "u00001"], "city": ["x", "y"]}).write_csv(names)
    options = ("--user", "u00005", "--user", "u00003", "--users-file", names, "--k", "2")
    funnelrec("recommend", run, *options, "--out", out)
    order = pl.read_csv(out)["user_id"].unique(maintain_order=True).to_list()
    assert order == ["u00005", "u00003", "u00001"]
    (tmp_path / "users.txt").write_text("u00005\n\n u00003\nu00001\n")
    pl.read_csv(names).write_parquet(tmp_path / "users.parquet")
    for file, first in (("users.txt", "u00005"), ("users.parquet", "u00003")):
        funnelrec("recommend", run, "--users-file", tmp_path / file, "--out", out)
        assert pl.read_csv(out)["user_id"][0] == first


def test_a_table_for_the_users_asked_for(run: Path) -> None:
    shown = funnelrec("recommend", run, "--user", "u00002", "--k", "3").stdout
    expected = load_run(run).model.recommend(["u00002"], k=3)
    rows = [line.replace("│", " ").split() for line in shown.splitlines()]
    found = [row[:2] + row[3:] for row in rows if row[:1] == ["u00002"]]
    assert found == [
        [user, item, str(rank)]
        for user, item, rank in expected.select("user_id", "item_id", "rank").iter_rows()
    ]


def test_exclusions(run: Path, tmp_path: Path) -> None:
    model = load_run(run).model
    for text, names in (("none", ()), ("train-target,touched", ("train-target", "touched"))):
        out = tmp_path / "recs.parquet"
        funnelrec("recommend", run, "--exclude", text, "--out", out)
        assert pl.read_parquet(out).equals(model.recommend(exclude=names))


def test_unknown_users(run: Path, tmp_path: Path) -> None:
    asked = ("recommend", run, "--user", "u00001", "--user", "nobody", "--out", tmp_path / "r.csv")
    message = refused(*asked)
    assert message.startswith("1 of the users asked for are not in the data set")
    assert message.endswith("leave them out, or ask with --unknown-users skip.")
    assert not (tmp_path / "r.csv").exists()
    alone = refused("recommend", run, "--user", "nobody", "--out", tmp_path / "r.csv")
    assert alone == "the user 'nobody' is not in the data set; name another."
    result = funnelrec(*asked, "--unknown-users", "skip")
    assert result.stderr == "1 unknown user left out\n"
    assert pl.read_csv(tmp_path / "r.csv")["user_id"].unique().to_list() == ["u00001"]


def test_integer_identifiers_come_from_the_shell_as_text(tmp_path: Path) -> None:
    log = tmp_path / "log.csv"
    log.write_text("user_id,item_id,behavior\n7,1,view\n7,2,buy\n7,3,buy\n8,1,buy\n8,3,buy\n")
    funnelrec("prepare", log, "--out", tmp_path / "ds", "--behaviors", "view,buy")
    funnelrec("train", tmp_path / "ds", "--model", "popularity", "--out", tmp_path / "run")
    out = tmp_path / "r.parquet"
    funnelrec("recommend", tmp_path / "run", "--user", "8", "--out", out)
    assert pl.read_parquet(out)["user_id"].unique().to_list() == [8]
    assert "'eight'" in refused("recommend", tmp_path / "run", "--user", "eight", "--out", out)


def test_mistakes(run: Path, tmp_path: Path) -> None:
    out = ("--out", tmp_path / "recs.parquet")
    assert refused("recommend", run).startswith("name users with --user or --users-file")
    assert "--out must end in" in refused("recommend", run, "--out", tmp_path / "recs.xlsx")
    assert "k must be a whole number of at least 1, got 0" in refused(
        "recommend", run, "--k", "0", *out
    )
    assert "did you mean 'touched'" in refused("recommend", run, "--exclude", "touch", *out)
    assert refused("recommend", run, "--exclude", "nothing", *out) == (
        "unknown exclude 'nothing'. Known: none, touched, train-target, validation."
    )
    neither = refused("recommend", tmp_path, *out)
    assert neither.startswith(f"{tmp_path} is no finished run and no artifact: there is neither")
    assert "funnelrec export RUN" in neither
    log = tmp_path / "wrongcol.csv"
    log.write_text("user_id,item,behavior\n1,2,view\n")
    history = refused("recommend", run, "--history", log, *out)
    assert history.endswith("Rename 'item' to 'item_id'.")
    missing = tmp_path / "missing.csv"
    assert refused("recommend", run, "--users-file", missing) == f"no such file: {missing}."
    wrong = tmp_path / "wrong.csv"
    wrong.write_text("uid\n1\n")
    assert "has no column 'user_id'" in refused("recommend", run, "--users-file", wrong)
    (tmp_path / "wrong.parquet").write_text("no")
    assert "cannot read" in refused("recommend", run, "--users-file", tmp_path / "wrong.parquet")
