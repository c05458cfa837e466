from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from benchmark_layouts import write_parquet

from funnelrec.common.errors import DataError
from funnelrec.data.importers import import_layout, import_parquet
from funnelrec.data.preparation import prepare_imported


def test_parquet_dates_and_text(tmp_path: Path) -> None:
    moment = datetime(2026, 5, 1, 12, tzinfo=UTC)
    pl.DataFrame(
        {
            "user_id": ["a"],
            "item_id": ["b"],
            "behavior": ["buy"],
            "timestamp": [moment],
            "price": [1],
        }
    ).write_parquet(tmp_path / "train.parquet")
    log = import_parquet(tmp_path)
    assert log.train.schema["timestamp"] == pl.Datetime("us")
    assert log.train["timestamp"].to_list() == [moment.replace(tzinfo=None)]
    assert "train.parquet: columns not read: price" in log.notes


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"user_id": [1], "behavior": ["buy"]}, r"has no column 'item_id'"),
        ({"user_id": [1], "item_id": [2]}, r"has no column 'behavior'"),
        (
            {"user_id": [None, 1], "item_id": [2, 2], "behavior": ["b"] * 2},
            r"user_id must not be nu",
        ),
        ({"user_id": [1.5], "item_id": [2], "behavior": ["b"]}, r"integers or text, got Float64"),
        (
            {"user_id": [1], "item_id": [2], "behavior": ["b"], "timestamp": [0.5]},
            r"timestamp must hold whole numbers or dates, got Float64\.$",
        ),
    ],
)
def test_malformed_parquet(tmp_path: Path, columns: dict[str, Any], message: str) -> None:
    pl.DataFrame(columns).write_parquet(tmp_path / "train.parquet")
    with pytest.raises(DataError, match=message):
        import_parquet(tmp_path)


def test_parquet_files_that_do_not_fit(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no such file: .*train\.parquet"):
        import_parquet(tmp_path)
    (tmp_path / "train.parquet").write_text("1 2")
    with pytest.raises(DataError, match=r"cannot read .*train\.parquet as Parquet"):
        import_parquet(tmp_path)
    write_parquet(tmp_path)
    pl.DataFrame({"user_id": ["1"], "item_id": [2]}).write_parquet(tmp_path / "test.parquet")
    with pytest.raises(DataError, match=r"user_id is Int64 in training and String in test; write"):
        import_parquet(tmp_path)


def test_identifiers_beyond_64_bits_are_named(tmp_path: Path) -> None:
    frame = pl.DataFrame(
        {
            "user_id": pl.Series([1, 2**63 + 5], dtype=pl.UInt64),
            "item_id": [1, 2],
            "behavior": ["purchase", "purchase"],
        }
    )
    frame.write_parquet(tmp_path / "train.parquet")
    with pytest.raises(DataError, match=r"user_id must be below 2\*\*63, got 9223372036854775813"):
        import_layout(tmp_path, "parquet")


def test_validation_pairs_without_a_test_are_not_lost(tmp_path: Path) -> None:
    pairs = {"user_id": [1, 2], "item_id": [1, 2]}
    pl.DataFrame({**pairs, "behavior": ["purchase", "purchase"]}).write_parquet(
        tmp_path / "train.parquet"
    )
    pl.DataFrame({**pairs, "item_id": [9, 9]}).write_parquet(tmp_path / "validation.parquet")
    with pytest.raises(DataError, match="has validation pairs and no test pairs"):
        prepare_imported(import_layout(tmp_path, "parquet"))
