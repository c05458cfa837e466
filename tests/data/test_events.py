from __future__ import annotations

import gzip
import math
import warnings
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta, timezone, tzinfo
from pathlib import Path
from typing import Any, cast

import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from funnelrec.common.errors import DataError, UsageError
from funnelrec.data.events import Events, read_events, read_pairs

LOG = pl.DataFrame(
    {
        "user_id": [3, 3, 1, 2, 3],
        "item_id": ["a", "b", "a", "c", "a"],
        "behavior": ["view", "cart", "view", "purchase", "purchase"],
        "timestamp": [10, 11, 12, 13, 14],
    }
)


def with_values(**columns: Any) -> pl.DataFrame:
    return LOG.with_columns(
        values if isinstance(values, pl.Series) else pl.Series(name, values, strict=False)
        for name, values in columns.items()
    ).select(LOG.columns)


def _csv(folder: Path) -> Path:
    LOG.write_csv(folder / "log.csv")
    return folder / "log.csv"


def _csv_gz(folder: Path) -> Path:
    (folder / "log.csv.gz").write_bytes(gzip.compress(_csv(folder).read_bytes()))
    return folder / "log.csv.gz"


def _tsv(folder: Path) -> Path:
    LOG.write_csv(folder / "log.tsv", separator="\t")
    return folder / "log.tsv"


def _parquet(folder: Path) -> Path:
    LOG.write_parquet(folder / "log[1].parquet")
    return folder / "log[1].parquet"


def _folder(folder: Path) -> Path:
    parts = folder / "parts"
    (parts / "_temporary").mkdir(parents=True)
    LOG.head(2).write_parquet(parts / "part-0.parquet")
    LOG.tail(3).cast({"user_id": pl.Int32}).write_parquet(parts / "part-1.parquet")
    LOG.write_parquet(parts / "_temporary" / "half.parquet")
    (parts / "_SUCCESS").touch()
    return parts


def _arrow(folder: Path) -> Path:
    LOG.write_ipc(folder / "log.arrow")
    return folder / "log.arrow"


def _arrow_stream(folder: Path) -> Path:
    LOG.write_ipc_stream(folder / "log.feather")
    return folder / "log.feather"


def _arrow_dictionary(folder: Path) -> pa.Table:
    return LOG.cast({"behavior": pl.Categorical}).to_arrow()


def _pandas(folder: Path) -> pd.DataFrame:
    return pd.DataFrame(LOG.to_dict(as_series=False), index=[9, 8, 7, 6, 5])


SOURCES: list[Callable[[Path], Any]] = [
    _csv,
    _csv_gz,
    _tsv,
    _parquet,
    _folder,
    _arrow,
    _arrow_stream,
    _arrow_dictionary,
    _pandas,
    lambda folder: str(_csv(folder)),
    lambda folder: LOG,
    lambda folder: LOG.lazy(),
    lambda folder: LOG.to_arrow(),
]


@pytest.mark.parametrize("source", SOURCES)
def test_every_source_gives_the_same_events(source: Callable[[Path], Any], tmp_path: Path) -> None:
    events = read_events(source(tmp_path))
    assert events.behaviors == ("view", "cart", "purchase")
    assert events.target == "purchase"
    assert events.timestamp_unit == "as-given"
    assert events.frame.schema == {
        "user_id": pl.Int64,
        "item_id": pl.String,
        "behavior": pl.Enum(["view", "cart", "purchase"]),
        "timestamp": pl.Int64,
    }
    assert events.frame.rows() == LOG.rows()


def test_a_folder_partitioned_by_behavior_is_read(tmp_path: Path) -> None:
    for name in ("view", "cart", "purchase"):
        (tmp_path / f"behavior={name}").mkdir()
        part = LOG.filter(behavior=name).drop("behavior")
        part.write_parquet(tmp_path / f"behavior={name}" / "0.parquet")
    assert sorted(read_events(tmp_path).frame.rows()) == sorted(LOG.rows())


def test_columns_are_named_by_the_user() -> None:
    named = LOG.rename({"user_id": "visitor", "timestamp": "ts"}).with_columns(price=1.0)
    events = read_events(named, columns={"user_id": "visitor", "timestamp": "ts"})
    assert events.frame.columns == ["user_id", "item_id", "behavior", "timestamp"]
    assert events.frame.rows() == LOG.rows()


@pytest.mark.parametrize(
    ("frame", "columns", "message"),
    [
        (
            LOG.rename({"user_id": "UserID"}),
            None,
            "polars DataFrame has no column 'user_id' (near: 'UserID'). It has: 'UserID', "
            "'item_id', 'behavior', 'timestamp'. Name yours with columns={'user_id': 'UserID'}.",
        ),
        (
            LOG,
            {"timestamp": "clock"},
            "polars DataFrame has no column 'clock'. It has: 'user_id', 'item_id', 'behavior', "
            "'timestamp'. Name yours with columns={'timestamp': '...'}.",
        ),
        (
            LOG,
            {"item_id": "user_id"},
            "columns must name a different column each, got {'user_id': 'user_id', "
            "'item_id': 'user_id', 'behavior': 'behavior', 'timestamp': 'timestamp'}.",
        ),
        (
            LOG,
            {"user": "user_id"},
            "unknown key 'user' in columns: did you mean 'user_id'? "
            "Known: behavior, item_id, timestamp, user_id.",
        ),
    ],
)
def test_column_names_that_do_not_fit(
    frame: pl.DataFrame, columns: dict[str, str] | None, message: str
) -> None:
    with pytest.raises(UsageError) as caught:
        read_events(frame, columns=columns)
    assert str(caught.value) == message


def test_another_separator_is_recognized(tmp_path: Path) -> None:
    LOG.write_csv(tmp_path / "log.csv", separator=";")
    parts = _folder(tmp_path)
    (parts / "part-2.parquet").write_bytes(b"no Parquet")
    with pytest.raises(DataError, match=r"cannot read .*part-2\.parquet: "):
        read_events(parts)
    with pytest.raises(DataError, match="seem to be separated by ';'; use a comma"):
        read_events(tmp_path / "log.csv")


def test_a_part_without_a_column_is_an_error(tmp_path: Path) -> None:
    LOG.write_parquet(tmp_path / "0.parquet")
    LOG.drop("behavior").write_parquet(tmp_path / "1.parquet")
    with pytest.raises(DataError, match="no column 'behavior'"):
        read_events(tmp_path)


# Sources that cannot be read ------------------------------------------------------------------


def test_missing_path(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no such file or folder: .*log\.csv"):
        read_events(tmp_path / "log.csv")


def test_folder_without_parquet(tmp_path: Path) -> None:
    _csv(tmp_path)
    with pytest.raises(DataError, match="holds no Parquet file"):
        read_events(tmp_path)


@pytest.mark.parametrize("name", ["log.csv", "log.csv.gz", "log.parquet", "log.arrow"])
def test_empty_file(name: str, tmp_path: Path) -> None:
    (tmp_path / name).touch()
    with pytest.raises(DataError, match=r"is empty\.$"):
        read_events(tmp_path / name)


def test_no_rows(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"^polars DataFrame holds no rows\.$"):
        read_events(LOG.clear())
    LOG.clear().write_csv(tmp_path / "log.csv")
    with pytest.raises(DataError, match="holds no rows"):
        read_events(tmp_path / "log.csv")


def test_unknown_ending(tmp_path: Path) -> None:
    (tmp_path / "log.xlsx").write_text("x")
    with pytest.raises(DataError, match=r"cannot tell the format of .*known endings: \.csv"):
        read_events(tmp_path / "log.xlsx")


@pytest.mark.parametrize("source", [_csv_gz, _parquet, _arrow, _arrow_stream])
def test_truncated_file(source: Callable[[Path], Path], tmp_path: Path) -> None:
    path = source(tmp_path)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(DataError, match=r"^cannot read .* It may be damaged"):
        read_events(path)


def test_binary_csv(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_bytes(b"user_id,item_id,behavior\n\xff\xfe,1,view\n")
    with pytest.raises(DataError, match="cannot read"):
        read_events(tmp_path / "log.csv")


def test_a_csv_row_with_too_many_fields(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("user_id,item_id,behavior\n1,2,buy\n1,2,buy,7\n")
    with pytest.raises(DataError, match="cannot read"):
        read_events(tmp_path / "log.csv")


def test_a_mixed_pandas_column() -> None:
    frame = pd.DataFrame({"user_id": [1, "x"], "item_id": [1, 2], "behavior": ["view", "buy"]})
    with pytest.raises(DataError, match=r"cannot read the pandas frame.*Give each column one type"):
        read_events(frame)


def test_no_table() -> None:
    with pytest.raises(
        UsageError, match=r"a path or a polars, pandas or Arrow table, got builtins"
    ):
        read_events([1, 2])


# Identifiers ----------------------------------------------------------------------------------


def test_csv_identifiers_are_integers_only_if_all_are_plain(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text("user_id,item_id,behavior\n10,007,view\n-2,7,buy\n")
    frame = read_events(path).frame
    assert frame["user_id"].to_list() == [10, -2]
    assert frame["item_id"].to_list() == ["007", "7"]


def test_whole_floats_are_integers() -> None:
    assert read_events(with_values(user_id=[3.0, 3.0, 1.0, 2.0, 3.0])).frame.rows() == LOG.rows()


@pytest.mark.parametrize("values", [[True] * 5, [[1]] * 5, [date(2024, 1, 1)] * 5])
def test_identifiers_of_another_type(values: list[Any]) -> None:
    with pytest.raises(DataError, match=r"column 'user_id' .* must hold integers or text, got"):
        read_events(with_values(user_id=values))


# Behaviors ------------------------------------------------------------------------------------


def behaving(*names: str | None) -> pl.DataFrame:
    n = len(names)
    return pl.DataFrame({"user_id": range(n), "item_id": range(n), "behavior": names})


def test_usual_names_are_ordered_and_keep_their_spelling() -> None:
    events = read_events(behaving("Buy", "AddToCart", "PV", "fav", "Buy"))
    assert events.behaviors == ("PV", "fav", "AddToCart", "Buy")
    assert events.target == "Buy"
    assert events.notes == ("behaviors ordered by their names: PV < fav < AddToCart < Buy.",)


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (("view", "wish", "buy"), "'wish' is no usual name"),
        (("view", "click", "buy"), "several names mean the same step"),
        (("view", "cart"), "none of them is a purchase"),
        ((None, None), "there is none"),
    ],
)
def test_an_order_that_cannot_be_inferred(names: tuple[str | None, ...], reason: str) -> None:
    with pytest.raises(DataError) as caught:
        read_events(behaving(*names))
    message = str(caught.value)
    assert f"because {reason}. Column 'behavior' holds: " in message
    assert all(repr(name) in message for name in names if name)
    assert "behaviors=['view', 'cart', 'purchase']" in message


def test_a_named_target_needs_no_purchase() -> None:
    assert read_events(behaving("view", "cart"), target="cart").target == "cart"


def test_a_sequence_orders_the_names() -> None:
    events = read_events(behaving("wish", "look", "own"), behaviors=["look", "wish", "own"])
    assert (events.behaviors, events.target) == (("look", "wish", "own"), "own")


def test_a_mapping_merges_names() -> None:
    events = read_events(
        behaving("3", "1", "2", "4"),
        behaviors={"1": "view", "2": "view", "3": "cart", "4": "purchase"},
    )
    assert events.behaviors == ("view", "cart", "purchase")
    assert events.frame["behavior"].to_list() == ["cart", "view", "view", "purchase"]


def test_codes_are_read_as_text() -> None:
    codes = with_values(behavior=[0.0, 0.0, 1.0, 1.0, 2.0])
    events = read_events(codes, behaviors={"0": "view", "1": "cart", "2": "purchase"})
    assert events.frame["behavior"].to_list()[-1] == "purchase"


@pytest.mark.parametrize(
    ("behaviors", "message"),
    [
        ("view, buy", r"got the text 'view, buy'; write \['view', 'buy'\]"),
        (["view", "view"], "must name each behavior once"),
        ([], "at least one behavior"),
        ({"view": ""}, "must not have an empty name"),
    ],
)
def test_behaviors_that_are_no_order(behaviors: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        read_events(LOG, behaviors=behaviors)


def test_a_target_that_is_not_among_the_behaviors() -> None:
    with pytest.raises(DataError, match=r"target 'purchse' .*did you mean 'purchase'"):
        read_events(LOG, target="purchse")


def test_an_absent_target_is_refused_before_its_rows_are_called_unknown() -> None:
    with pytest.raises(DataError) as caught:
        read_events(LOG, behaviors=["view", "cart", "buy"])
    assert str(caught.value) == (
        "the target behavior 'buy' does not occur in polars DataFrame: no row has 'buy' in column "
        "'behavior', which holds: 'cart', 'purchase', 'view'."
    )


def test_a_target_that_only_bad_rows_have(tmp_path: Path) -> None:
    frame = with_values(user_id=[3, 3, 1, None, None])
    with pytest.raises(DataError, match=r"no good row of .* has the target behavior 'purchase'"):
        read_events(frame, on_bad_rows="quarantine", quarantine_path=tmp_path / "bad.parquet")


def test_the_target_alone_warns() -> None:
    with pytest.warns(UserWarning, match="holds the target behavior 'buy' alone"):
        events = read_events(behaving("buy", "buy"))
    assert any("alone" in note for note in events.notes)


def test_a_behavior_without_rows_is_noted() -> None:
    events = read_events(LOG, behaviors=["view", "collect", "cart", "purchase"])
    assert events.behaviors == ("view", "collect", "cart", "purchase")
    assert events.notes == ("behavior 'collect' has no row.",)


# Timestamps -----------------------------------------------------------------------------------

_NEW_YEAR = 1_704_067_200_000_000
_HOUR = 3_600_000_000


@pytest.mark.parametrize(
    ("values", "unit", "first"),
    [
        ([1704067200.0, 2.0, 3.0, 4.0, 5.0], "as-given", 1_704_067_200),
        ([1704067200.25, 2.0, 3.0, 4.0, 5.0], "us", _NEW_YEAR + 250_000),
        (["1704067200", "2", "3", "4", " 5 "], "as-given", 1_704_067_200),
        (["1704067200000000123", "2", "3", "4", "5"], "as-given", 1_704_067_200_000_000_123),
        (["1704067200.5", "2", "3", "4", "5"], "us", _NEW_YEAR + 500_000),
        ([date(2024, 1, 1)] * 5, "us", _NEW_YEAR),
        ([datetime(2024, 1, 1)] * 5, "us", _NEW_YEAR),
        (
            [datetime(2024, 1, 1, tzinfo=timezone(timedelta(hours=2)))] * 5,
            "us",
            _NEW_YEAR - 2 * _HOUR,
        ),
        (["2024-01-01"] * 5, "us", _NEW_YEAR),
        (["2024-01-01 05"] * 5, "us", _NEW_YEAR + 5 * _HOUR),
        (["2024-01-01 05:00:00 UTC"] * 5, "us", _NEW_YEAR + 5 * _HOUR),
        (["2024-01-01T05:00:00.000001+05:30"] * 5, "us", _NEW_YEAR - _HOUR // 2 + 1),
        (
            ["2024-01-01", "2024-01-01T01:00", "2024-01-01 01:00:00Z", *["2024-02-01"] * 2],
            "us",
            _NEW_YEAR,
        ),
    ],
)
def test_timestamps_become_numbers(values: list[Any], unit: str, first: int) -> None:
    events = read_events(with_values(timestamp=values))
    assert events.timestamp_unit == unit
    assert events.frame["timestamp"][0] == first


@given(
    st.datetimes(
        min_value=datetime(1970, 1, 2),
    ),
    st.integers(-720, 720).map(lambda m: timezone(timedelta(minutes=m))) | st.none(),
)
def test_iso_text_agrees_with_the_standard_library(moment: datetime, zone: tzinfo | None) -> None:
    moment = moment.replace(tzinfo=zone)
    aware = moment if zone else moment.replace(tzinfo=UTC)
    expected = (aware - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
    events = read_events(with_values(timestamp=[moment.isoformat()] * 5))
    assert events.frame["timestamp"].to_list() == [expected] * 5


def test_timestamps_are_optional() -> None:
    undated = LOG.drop("timestamp")
    for events in (read_events(undated), read_events(LOG, timestamps="ignore")):
        assert not events.dated
        assert events.frame.rows() == undated.rows()
    with pytest.raises(DataError, match="no column 'timestamp'"):
        read_events(undated, timestamps="require")


def test_a_column_of_nulls_is_undated() -> None:
    empty = with_values(timestamp=[None] * 5)
    events = read_events(empty)
    assert not events.dated
    assert events.notes[-1] == "column 'timestamp' holds only nulls: read as undated."
    with pytest.raises(DataError, match="holds only nulls"):
        read_events(empty, timestamps="require")


def test_timestamps_of_another_type() -> None:
    with pytest.raises(DataError, match="must hold numbers, dates or text, got Boolean"):
        read_events(with_values(timestamp=[True] * 5))


# Bad rows -------------------------------------------------------------------------------------

FAULTS: list[tuple[dict[str, Any], str]] = [
    ({"user_id": [3, None, 1, 2, 3]}, "user_id is null"),
    ({"user_id": [3.0, float("nan"), 1.0, 2.0, 3.0]}, "user_id is null"),
    ({"user_id": [3.0, 1.5, 1.0, 2.0, 3.0]}, "user_id is not a whole number below 2**53"),
    ({"user_id": [3.0, float("inf"), 1.0, 2.0, 3.0]}, "user_id is not a whole number below 2**53"),
    (
        {"user_id": pl.Series("user_id", [3, 2**63, 1, 2, 3], pl.UInt64)},
        "user_id needs over 64 bits",
    ),
    ({"item_id": ["a", "", "a", "c", "a"]}, "item_id is empty"),
    ({"item_id": ["a", " ", "a", "c", "a"]}, "item_id is empty"),
    ({"behavior": ["view", None, "view", "purchase", "purchase"]}, "behavior is null"),
    ({"behavior": ["view", "wish", "view", "purchase", "purchase"]}, "unknown behavior"),
    ({"timestamp": [10, -1, 12, 13, 14]}, "timestamp is negative"),
    ({"timestamp": [10, None, 12, 13, 14]}, "timestamp is null"),
    ({"timestamp": [1.0, float("inf"), 2.0, 3.0, 4.0]}, "timestamp is unparsable"),
    ({"timestamp": ["10", "soon", "12", "13", "14"]}, "timestamp is unparsable"),
    ({"timestamp": ["10", "", "12", "13", "14"]}, "timestamp is null"),
    ({"timestamp": ["2024-01-01", "2024-02-30", *["2024-01-01"] * 3]}, "timestamp is unparsable"),
    (
        {"timestamp": ["2024-01-01", "2024-01-01 25:00", *["2024-01-01"] * 3]},
        "timestamp is unparsable",
    ),
    ({"timestamp": ["2024-01-01", "1969-12-31", *["2024-01-01"] * 3]}, "timestamp is negative"),
]


@pytest.mark.parametrize(("columns", "reason"), FAULTS)
def test_every_fault_has_its_reason(columns: dict[str, Any], reason: str, tmp_path: Path) -> None:
    frame = with_values(**columns)
    names = ["view", "cart", "purchase"]
    with pytest.raises(DataError, match=r"^1 of 5 rows .* cannot be used"):
        read_events(frame, behaviors=names)
    aside = tmp_path / "bad.parquet"
    with warnings.catch_warnings():
        events = read_events(
            frame, behaviors=names, on_bad_rows="quarantine", quarantine_path=aside
        )
    assert f"1 of 5 rows set aside in {aside}." in events.notes
    assert events.frame["item_id"].to_list() == ["a", "a", "c", "a"]
    bad = pl.read_parquet(aside)
    assert bad.columns == ["row", "user_id", "item_id", "behavior", "timestamp", "reason"]
    assert bad["row"].to_list() == [2]
    assert bad["reason"].to_list() == [reason]
    assert bad.select(LOG.columns).equals(frame.slice(1, 1))


def test_the_message_counts_and_shows_bad_rows() -> None:
    frame = with_values(
        user_id=[None, 3, 1, 2, 3],
        behavior=["wish", "wish", "view", "purchase", "like"],
        timestamp=[-5, 11, 12, 13, 14],
    )
    with pytest.raises(DataError) as caught:
        read_events(frame, behaviors=["view", "purchase"])
    assert str(caught.value) == (
        "3 of 5 rows of polars DataFrame cannot be used: user_id is null (1 rows); unknown "
        "behavior: 'wish' (2), 'like' (1), not among behaviors=['view', 'purchase']; add it there, "
        "or take these rows out (3 rows); timestamp is negative (1 rows).\n"
        "The first of them:\n"
        "  row 1: user_id is null; unknown behavior; timestamp is negative: user_id=None, "
        "item_id='a', behavior='wish', timestamp=-5\n"
        "  row 2: unknown behavior: user_id=3, item_id='b', behavior='wish', timestamp=11\n"
        "  row 5: unknown behavior: user_id=3, item_id='a', behavior='like', timestamp=14\n"
        "Correct them, or set them aside with on_bad_rows='quarantine'."
    )


def test_quarantine_stands_beside_the_source_by_default(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("user_id,item_id,behavior\n1,2,view\n,2,view\n1,2,buy\n")
    path = tmp_path / "log.csv.gz"
    path.write_bytes(gzip.compress((tmp_path / "log.csv").read_bytes()))
    assert len(read_events(path, on_bad_rows="quarantine")) == 2
    assert pl.read_parquet(tmp_path / "log.quarantine.parquet")["row"].to_list() == [2]


def test_quarantine_of_a_folder_stays_out_of_it(tmp_path: Path) -> None:
    parts = _folder(tmp_path)
    with_values(user_id=[None, 3, 1, 2, 3]).write_parquet(parts / "part-2.parquet")
    assert len(read_events(parts, on_bad_rows="quarantine")) == 9
    assert pl.read_parquet(tmp_path / "parts.quarantine.parquet")["row"].to_list() == [6]
    with pytest.raises(UsageError, match="must lie outside the log"):
        read_events(parts, on_bad_rows="quarantine", quarantine_path=parts / "bad.parquet")


def test_quarantine_never_replaces_the_log(tmp_path: Path) -> None:
    path = _parquet(tmp_path)
    with pytest.raises(UsageError, match="must lie outside the log"):
        read_events(path, on_bad_rows="quarantine", quarantine_path=path)


def test_quarantine_of_a_frame_needs_a_path() -> None:
    with pytest.raises(UsageError, match="needs quarantine_path for a frame"):
        read_events(LOG, on_bad_rows="quarantine")


def test_quarantine_writes_nothing_without_bad_rows(tmp_path: Path) -> None:
    aside = tmp_path / "bad.parquet"
    read_events(LOG, on_bad_rows="quarantine", quarantine_path=aside)
    assert not aside.exists()


def test_a_log_of_bad_rows_is_refused_even_with_quarantine(tmp_path: Path) -> None:
    aside = tmp_path / "bad.parquet"
    frame = with_values(item_id=["", None, "", "", ""])
    with pytest.raises(DataError, match=r"No good row is left\.$"):
        read_events(frame, on_bad_rows="quarantine", quarantine_path=aside)
    assert not aside.exists()


@pytest.mark.parametrize("argument", ["on_bad_rows", "timestamps"])
def test_unknown_policies(argument: str) -> None:
    with pytest.raises(UsageError, match=f"unknown {argument} 'ignroe'"):
        read_events(LOG, **cast(Any, {argument: "ignroe"}))


# Events and held-out pairs --------------------------------------------------------------------


def test_events_check_their_form() -> None:
    good = read_events(LOG)
    with pytest.raises(DataError, match="target behavior 'buy' is not among"):
        Events(good.frame, good.behaviors, "buy")
    with pytest.raises(DataError, match="must have the columns"):
        Events(good.frame, good.behaviors, "purchase", "none")
    with pytest.raises(DataError, match="column 'behavior' of events must be Enum"):
        Events(good.frame, ("view", "purchase"), "purchase", "us")
    with pytest.raises(DataError, match="'timestamp' of events must not hold nulls"):
        Events(
            good.frame.with_columns(timestamp=pl.lit(None, pl.Int64)),
            good.behaviors,
            "purchase",
            "us",
        )


def test_pairs_take_the_types_of_the_log() -> None:
    pairs = pl.DataFrame({"user_id": [1], "item_id": [5], "timestamp": [3]})
    assert read_pairs(pairs, log=read_events(LOG)).rows() == [(1, "5", 3)]
    undated = read_events(LOG, timestamps="ignore")
    assert read_pairs(pairs, log=undated).rows() == [(1, "5")]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            {"user_id": ["x"]},
            "column 'user_id' of the test pairs .* holds text where the log holds",
        ),
        ({"item_id": [""]}, "item_id is empty"),
        ({"behavior": ["view"]}, "behavior is not the target 'purchase'"),
        ({"timestamp": ["2024-01-01"]}, "test pairs .* are dates, those of the log plain numbers"),
        ({"timestamp": [-1]}, "timestamp is negative"),
    ],
)
def test_pairs_that_do_not_fit(columns: dict[str, Any], message: str) -> None:
    pairs = pl.DataFrame({"user_id": [1], "item_id": ["a"], **columns})
    with pytest.raises(DataError, match=message):
        read_pairs(pairs, log=read_events(LOG), what="test")


@pytest.mark.parametrize("arguments", [{}, {"on_bad_rows": "error"}])
def test_a_quarantine_that_would_take_nothing_is_refused(
    tmp_path: Path, arguments: dict[str, Any]
) -> None:
    aside = tmp_path / "bad.parquet"
    with pytest.raises(UsageError) as caught:
        read_events(LOG, quarantine_path=aside, **arguments)
    assert str(caught.value) == (
        f"quarantine_path is given ({aside}) and on_bad_rows is 'error', which sets no row aside; "
        "add on_bad_rows='quarantine' or leave quarantine_path out."
    )


@pytest.mark.parametrize("odd", [math.nan, math.inf])
def test_a_behavior_code_that_is_no_number_is_a_bad_row(odd: float, tmp_path: Path) -> None:
    log = pl.DataFrame(
        {"user_id": [1, 1, 2, 2], "item_id": [1, 2, 1, 3], "behavior": [1.0, 2.0, 2.0, odd]}
    )
    with pytest.raises(DataError):
        read_events(log, behaviors={"1": "view", "2": "purchase"})
    events = read_events(
        log,
        behaviors={"1": "view", "2": "purchase"},
        on_bad_rows="quarantine",
        quarantine_path=tmp_path / "bad.parquet",
    )
    assert len(events.frame) == 3


def test_identifiers_of_single_precision_end_where_neighbors_are_one() -> None:
    log = pl.DataFrame(
        {
            "user_id": pl.Series([2.0**24 + 2, 1.0], dtype=pl.Float32),
            "item_id": [1, 2],
            "behavior": ["purchase", "purchase"],
        }
    )
    with pytest.raises(DataError, match=r"user_id is not a whole number below 2\*\*24"):
        read_events(log)
