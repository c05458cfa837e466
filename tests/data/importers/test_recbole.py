from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
from benchmark_layouts import TEST, pairs_of, write_recbole

from funnelrec.common.errors import DataError
from funnelrec.data.importers import import_layout, import_recbole


def test_recbole_times_and_ids(tmp_path: Path) -> None:
    write_recbole(tmp_path)
    log = import_recbole(tmp_path)
    assert log.train.schema == {
        "user_id": pl.String,
        "item_id": pl.String,
        "behavior": pl.String,
        "timestamp": pl.Int64,
    }
    assert log.train["timestamp"].to_list() == list(range(10))
    file = tmp_path / "big.inter"
    file.write_text(f"user_id:token\titem_id:token\ttimestamp:float\n007\t1\t{2**53 + 1}\n")
    log = import_layout(file)
    assert log.train.rows() == [("007", "1", "purchase", 2**53 + 1)]
    assert log.test is None
    file.write_text("user_id:token\titem_id:token\ttimestamp:float\n1\t1\t1.5\n1\t2\t2\n")
    log = import_layout(file)
    assert log.train["timestamp"].to_list() == [1_500_000, 2_000_000]
    assert "times have fractions" in log.notes[1]


def test_recbole_field_names(tmp_path: Path) -> None:
    file = tmp_path / "a.inter"
    file.write_text("uid:token\tsku:token\trating:float\tkind:token\n1\t2\t5\tview\n1\t2\t5\tbuy\n")
    log = import_recbole(tmp_path, user_field="uid", item_field="sku", behavior_field="kind")
    assert log.behaviors == ("view", "buy")
    assert log.train.columns == ["user_id", "item_id", "behavior"]
    assert log.notes == ("a.inter: fields not read: rating",)
    with pytest.raises(DataError, match=r"header must have a field 'user_id': did you mean 'uid'"):
        import_recbole(tmp_path)


def test_recbole_held_out_rows_of_other_behaviors(tmp_path: Path) -> None:
    write_recbole(tmp_path)
    with (tmp_path / "shop.test.inter").open("a") as file:
        file.write("1\t1\tview\t5\n")
    log = import_recbole(tmp_path)
    assert pairs_of(log.test) == set(TEST)
    assert "1 test rows are not of the target, left out" in log.notes


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("\t1\tbuy\t1", r"line 3: user_id:token must not be empty \(1 such lines\)\.$"),
        ("1\t \tbuy\t1", r"line 3: item_id:token must not be empty"),
        ("1\t1\t\t1", r"line 3: behavior:token must not be empty"),
        ("1\t1\tbuy\t-1", r"line 3: the time must be a number from 0, got '-1' \(1 such lines\)"),
        ("1\t1\tbuy\tnoon", r"line 3: the time must be a number from 0, got 'noon'"),
        ("1\t1\tbuy\tnan", r"line 3: the time must be a number from 0, got 'nan'"),
        ("1\t1\tbuy\t", r"line 3: the time must be a number from 0, got None"),
        ("1\t1\tbuy\t1\t1", r"cannot read .*a\.inter as tab-separated text"),
    ],
)
def test_malformed_recbole(tmp_path: Path, row: str, message: str) -> None:
    header = "user_id:token\titem_id:token\tbehavior:token\ttimestamp:float\n"
    (tmp_path / "a.inter").write_text(f"{header}1\t1\tbuy\t1\n{row}\n")
    with pytest.raises(DataError, match=message):
        import_recbole(tmp_path)


def test_recbole_folder_of_several_files(tmp_path: Path) -> None:
    header = "user_id:token\titem_id:token\n"
    for name in ("a", "b"):
        (tmp_path / f"{name}.inter").write_text(header + "1\t1\n")
    with pytest.raises(DataError, match=r"it holds a\.inter, b\.inter\. Name one file\.$"):
        import_recbole(tmp_path)
    assert import_recbole(tmp_path / "a.inter").train.height == 1
