from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pytest
from cli_helpers import funnelrec, make_log, refused

from funnelrec.data.dataset import Dataset
from funnelrec.data.events import read_events
from funnelrec.data.preparation import prepare
from funnelrec.data.splits import GlobalTime, LeaveOneOut

LINES = """uid,sku,what,when
1,10,pv,1
1,10,buy,2
1,11,pv,3
1,11,buy,4
1,12,buy,5
2,10,fav,6
2,12,buy,7
2,13,buy,8
"""
NAMED = ("--columns", "user_id=uid,item_id=sku,behavior=what,timestamp=when")


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_log(tmp_path_factory.mktemp("shop"))


@pytest.fixture
def csv(tmp_path: Path) -> Path:
    path = tmp_path / "log.csv"
    path.write_text(LINES)
    return path


def written(lines: str, path: Path) -> Path:
    path.write_text(lines)
    return path


def test_the_data_set_is_the_librarys(log: Path, tmp_path: Path) -> None:
    out = tmp_path / "ds"
    behaviors = "view,collect,cart,purchase"
    result = funnelrec("prepare", log, "--out", out, "--behaviors", behaviors, "--seed", "4")
    dataset = Dataset.load(out)
    expected = prepare(read_events(log), split=LeaveOneOut(seed=4))
    assert dataset.fingerprint == expected.fingerprint
    assert dataset.manifest.name == "ds"
    shown = " ".join(result.stdout.split())
    assert f"users │ {dataset.n_users:,}" in shown
    assert f"purchase pairs in training (target) │ {dataset.training.purchases.nnz:,}" in shown
    assert f"test pairs │ {dataset.test.nnz:,}" in shown
    assert f"read: {log}" in shown
    assert f"data set: {out}" in shown
    assert all(f"note: {note}" in result.stderr for note in dataset.manifest.notes)


def test_columns_behaviors_and_cores(csv: Path, tmp_path: Path) -> None:
    out = tmp_path / "ds"
    mapped = "pv=view,fav=view,buy=purchase"
    funnelrec("prepare", csv, "--out", out, *NAMED, "--behaviors", mapped, "--name", "mine")
    dataset = Dataset.load(out)
    assert dataset.behaviors == ("view", "purchase")
    assert dataset.manifest.name == "mine"
    assert dataset.training.user_ids.values.to_list() == [1, 2]
    funnelrec(
        *("prepare", csv, "--out", out, *NAMED, "--behaviors", mapped),
        *("--user-core", "3", "--core-by", "target"),
    )
    assert Dataset.load(out).training.user_ids.values.to_list() == [1]
    funnelrec("prepare", csv, "--out", out, *NAMED, "--behaviors", "pv,fav,buy", "--target", "pv")
    assert Dataset.load(out).target == "pv"


def test_a_split_by_time(log: Path, tmp_path: Path) -> None:
    out = tmp_path / "ds"
    funnelrec(
        *("prepare", log, "--out", out, "--split", "time"),
        *("--validation-fraction", "0.05", "--test-fraction", "0.2", "--auxiliary", "keep"),
    )
    expected = prepare(
        read_events(log), split=GlobalTime(validation=0.05, test=0.2), auxiliary="keep"
    )
    assert Dataset.load(out).fingerprint == expected.fingerprint
    dated = pl.read_parquet(log).with_columns(pl.from_epoch("timestamp", time_unit="s"))
    dated.write_parquet(tmp_path / "dated.parquet")
    cut = ("--validation-from", "2024-04-01", "--test-from", "2024-05-01T12:00:00")
    funnelrec("prepare", tmp_path / "dated.parquet", "--out", out, "--split", "time", *cut)
    parameters = Dataset.load(out).manifest.split.parameters
    assert parameters["test_from"] == 1_714_564_800_000_000
    assert parameters["validation_from"] == 1_711_929_600_000_000


@pytest.mark.parametrize(
    ("option", "setting"),
    [
        (("--validation-count", "20"), {"validation_count": 20}),
        (("--validation-fraction", "0.5"), {"validation_fraction": 0.5}),
    ],
)
def test_a_share_or_a_number_validates(
    option: tuple[str, str], setting: dict[str, Any], log: Path, tmp_path: Path
) -> None:
    out = tmp_path / "ds"
    events = read_events(log)
    funnelrec("prepare", log, "--out", out, *option, "--seed", "4")
    expected = prepare(events, split=LeaveOneOut.create(setting, seed=4))
    assert Dataset.load(out).fingerprint == expected.fingerprint
    assert 0 < expected.training.validation.nnz < prepare(events).training.validation.nnz
    funnelrec("prepare", log, "--out", out, "--split", "time", *option)
    share = {"validation": setting.get("validation_fraction", 0.1)}
    number = {"validation_count": setting.get("validation_count")}
    expected = prepare(events, split=GlobalTime.create({**share, **number}))
    assert Dataset.load(out).fingerprint == expected.fingerprint


def test_leave_one_out_by_chance_without_validation(log: Path, tmp_path: Path) -> None:
    out = tmp_path / "ds"
    options = ("--order", "random", "--no-validation", "--timestamps", "ignore")
    funnelrec("prepare", log, "--out", out, *options)
    dataset = Dataset.load(out)
    assert dataset.training.validation.nnz == 0
    assert dataset.manifest.split.order == "random"
    assert dataset.manifest.timestamp_unit == "none"


def test_given_files(tmp_path: Path) -> None:
    log = written(
        "user_id,item_id,behavior\n1,1,view\n1,2,buy\n1,3,buy\n1,4,buy\n2,1,buy\n",
        tmp_path / "train.csv",
    )
    test = written("user_id,item_id\n1,9\n2,2\n", tmp_path / "test.csv")
    base = ("prepare", log, "--split", "given", "--test", test, "--behaviors", "view,buy")
    funnelrec(*base, "--out", tmp_path / "a", "--seed", "1")
    drawn = Dataset.load(tmp_path / "a")
    assert (drawn.test.nnz, drawn.training.validation.nnz) == (2, 1)
    assert drawn.training.user_ids.decode(drawn.training.validation.users).to_list() == [1]
    base_of_one = (*base, "--out", tmp_path / "b", "--validation-count")
    funnelrec(*base_of_one, "1")
    assert Dataset.load(tmp_path / "b").training.validation.nnz == 1
    assert refused(*base_of_one, "2").startswith("validation_count=2 asks for more users than the")
    funnelrec(*base, "--out", tmp_path / "b", "--no-validation")
    assert Dataset.load(tmp_path / "b").training.validation.nnz == 0
    validation = written("who,item_id\n2,7\n", tmp_path / "validation.csv")
    message = refused(*base, "--out", tmp_path / "c", "--validation", validation)
    assert "no column 'user_id'" in message
    other = written("who,item_id\n1,9\n2,2\n", tmp_path / "other.csv")
    funnelrec(
        *("prepare", log, "--split", "given", "--test", other, "--behaviors", "view,buy"),
        *("--validation", validation, "--held-out-columns", "user_id=who", "--out", tmp_path / "c"),
    )
    given = Dataset.load(tmp_path / "c").training
    assert given.item_ids.decode(given.validation.items).to_list() == [7]


def test_a_benchmark_folder_comes_split(tmp_path: Path) -> None:
    folder = tmp_path / "tiny"
    folder.mkdir()
    written('{"user": 3, "item": 9}', folder / "count.txt")
    written("1 1\n1 2\n2 3\n", folder / "click.txt")
    written("1 1\n1 3\n1 4\n2 3\n", folder / "buy.txt")
    written("1 5\n2 1\n", folder / "test.txt")
    out = tmp_path / "ds"
    funnelrec("prepare", folder, "--out", out, "--layout", "id-pairs")
    dataset = Dataset.load(out)
    assert (dataset.n_users, dataset.n_items, dataset.test.nnz) == (3, 9, 2)
    assert dataset.manifest.split.kind == "given"
    assert dataset.training.validation.nnz == 1
    assert refused(
        *("prepare", folder, "--out", out, "--layout", "id-pairs", "--validation-count", "2")
    ).startswith("validation_count=2 asks for more users than the 1 who have")
    shown = funnelrec("prepare", folder, "--out", out, "--catalogue", "taobao15k").stdout
    compared = " ".join(shown.replace("│", " ").split())
    assert "users 15,449 3 -15,446 no" in compared
    assert refused("prepare", folder, "--out", out, "--layout", "auto", "--split", "time") == (
        "--split cannot be combined with a benchmark layout, which comes split; leave it out."
    )
    assert "unknown data set 'taobao'" in refused(
        "prepare", folder, "--out", out, "--catalogue", "taobao"
    )


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (",10,pv,3\n", "user_id is null"),
        ("1,,pv,3\n", "item_id is null"),
        ("1,10,gaze,3\n", "'gaze'"),
        ("1,10,pv,soon\n", "timestamp"),
        ("1,10,pv,-3\n", "negative"),
    ],
)
def test_bad_rows_are_refused_or_set_aside(
    line: str, message: str, csv: Path, tmp_path: Path
) -> None:
    bad = written(LINES + line, csv)
    command = ("prepare", bad, "--out", tmp_path / "ds", *NAMED, "--behaviors", "pv,fav,buy")
    lines = refused_lines(*command)
    assert message in " ".join(lines)
    assert lines[-1] == "Correct them, or set them aside with --on-bad-rows quarantine."
    assert not (tmp_path / "ds").exists()
    aside = tmp_path / "bad.parquet"
    for mode in ((), ("--on-bad-rows", "error")):
        assert refused(*command, *mode, "--quarantine", aside) == (
            "--quarantine takes the rows that --on-bad-rows quarantine sets aside; add that or "
            "leave --quarantine out."
        )
    result = funnelrec(*command, "--on-bad-rows", "quarantine", "--quarantine", aside)
    assert f"note: 1 of 9 rows set aside in {aside}." in result.stderr
    rows = pl.read_parquet(aside)
    assert rows["row"].to_list() == [9]
    assert rows["reason"].is_not_null().all()


def refused_lines(*args: str | Path) -> list[str]:
    """Return the lines of a message that lists rows."""
    result = funnelrec(*args, code=2)
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert "Traceback" not in result.stderr
    return result.stderr.splitlines()


def test_bad_files(tmp_path: Path, csv: Path) -> None:
    out = ("--out", tmp_path / "ds")
    assert refused("prepare", tmp_path / "no.csv", *out).startswith("no such file or folder: ")
    assert "is empty" in refused("prepare", written("", tmp_path / "empty.csv"), *out)
    header = written("user_id,item_id,behavior\n", tmp_path / "header.csv")
    assert "holds no rows" in refused("prepare", header, *out)
    assert "no column 'user_id'" in refused("prepare", csv, *out)
    damaged = written("PAR1 and no more", tmp_path / "x.parquet")
    assert "cannot read" in refused("prepare", damaged, *out)
    assert "cannot tell the format" in refused("prepare", written("x", tmp_path / "x.log"), *out)
    assert "Name yours with --columns user_id=" in refused("prepare", csv, *out)
    odd = written(LINES.replace("pv", "zap"), tmp_path / "odd.csv")
    order = refused("prepare", odd, *out, *NAMED)
    assert "as in --behaviors view,cart,purchase, or map them" in order
    assert order.endswith("as in --behaviors pv=view,click=view,buy=purchase.")
    lost = ("--behaviors", "pv,fav,buy,order")
    assert "target behavior 'order'" in refused("prepare", csv, *out, *NAMED, *lost)
    unknown = ("--behaviors", "pv,fav,buy", "--target", "bye")
    assert "did you mean 'buy'" in refused("prepare", csv, *out, *NAMED, *unknown)
    assert not (tmp_path / "ds").exists()


def test_a_log_of_purchases_alone_warns(tmp_path: Path) -> None:
    log = written(
        "user_id,item_id,behavior\n1,1,buy\n1,2,buy\n1,3,buy\n2,1,buy\n", tmp_path / "log.csv"
    )
    result = funnelrec("prepare", log, "--out", tmp_path / "ds", "--behaviors", "buy")
    assert f"warning: {log} holds the target behavior 'buy' alone" in result.stderr
    message = refused("train", tmp_path / "ds", "--model", "rmbrec", "--out", tmp_path / "run")
    assert message.startswith("rmbrec learns from behaviors besides the target")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--test-fraction", "0.1"],
            "--test-fraction cannot be combined with --split leave-one-out; it belongs to "
            "--split time.",
        ),
        (
            ["--split", "time", "--test", "x.csv"],
            "--test cannot be combined with --split time; it belongs to --split given.",
        ),
        (["--split", "given"], "--split given needs the held-out purchases: add --test FILE."),
        (["--split", "time", "--test-fraction", "1.5"], "test: must be less than 1"),
        (
            ["--split", "time", "--test-from", "tomorrow"],
            "test_from: must be a date such as 2024-05-01 or",
        ),
        (
            ["--validation-fraction", "0.1", "--validation-count", "5"],
            "--validation-fraction cannot be combined with --validation-count; leave one of them "
            "out.",
        ),
        (
            ["--validation-count", "5", "--no-validation"],
            "--validation-count cannot be combined with --no-validation; leave one of them out.",
        ),
        (
            ["--split", "time", "--validation-from", "9", "--no-validation"],
            "--validation-from cannot be combined with --no-validation; leave one of them out.",
        ),
        (
            ["--split", "time", "--test-from", "9", "--test-fraction", "0.1"],
            "--test-fraction cannot be combined with --test-from; leave one of them out.",
        ),
        (
            ["--split", "given", "--no-validation", "--holdout-minimum", "2"],
            "--no-validation cannot be combined with --holdout-minimum; leave one of them out.",
        ),
        (["--validation-count", "0"], "validation_count: must be greater than"),
        (["--validation-count", "5000"], "validation_count=5000 asks for more users than the"),
        (
            ["--split", "foo"],
            "Invalid value for '--split': 'foo' is not one of 'leave-one-out', 'time', 'given'.",
        ),
        (["--columns", "user_id"], "--columns must be name=value pairs, got 'user_id'."),
        (["--columns", "user=uid"], "unknown key 'user' in columns: did you mean 'user_id'?"),
        (["--behaviors", "view,view"], "behaviors must name each behavior once"),
        (["--user-core", "-1"], "user_core must be an integer of at least 0, got -1."),
        (["--user-core", "1000"], "no 'purchase' pair is left with user_core=1000"),
        (["--seed", "-1"], "seed: must be greater than or equal to 0, got -1."),
    ],
)
def test_options_that_cannot_be(
    options: list[str], message: str, log: Path, tmp_path: Path
) -> None:
    assert refused("prepare", log, "--out", tmp_path / "ds", *options).startswith(message)
    assert not (tmp_path / "ds").exists()


def test_before_needs_dates(log: Path, tmp_path: Path) -> None:
    options = ("--timestamps", "ignore", "--auxiliary", "before")
    assert "needs timestamps" in refused("prepare", log, "--out", tmp_path / "ds", *options)
    assert "needs timestamps" in refused(
        "prepare", log, "--out", tmp_path / "ds", "--timestamps", "ignore", "--split", "time"
    )


def test_existing_folders(log: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("years of work")
    assert "exists and holds other files" in refused("prepare", log, "--out", mine)
    assert (mine / "thesis.txt").read_text() == "years of work"
    out = tmp_path / "ds"
    funnelrec("prepare", log, "--out", out)
    funnelrec("prepare", log, "--out", out, "--split", "time")
    assert Dataset.load(out).manifest.split.kind == "time"
