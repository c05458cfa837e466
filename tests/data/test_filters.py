from __future__ import annotations

from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from funnelrec.common.errors import ConfigError, DataError
from funnelrec.data.filters import deduplicate, k_core

Row = tuple[int, int, str]

rows_of_logs = st.lists(
    st.tuples(st.integers(0, 5), st.integers(0, 5), st.sampled_from(["view", "buy"])), max_size=40
)


def frame_of(rows: list[Row]) -> pl.DataFrame:
    schema = {"user_id": pl.Int64, "item_id": pl.Int64, "behavior": pl.String}
    return pl.DataFrame(rows, schema=schema, orient="row")


def slow_core(rows: list[Row], user_core: int, item_core: int, target: str | None) -> list[Row]:
    while True:
        pairs = {(u, i) for u, i, b in rows if target is None or b == target}
        kept = [
            (u, i, b)
            for u, i, b in rows
            if len({p for p in pairs if p[0] == u}) >= user_core
            and len({p for p in pairs if p[1] == i}) >= item_core
        ]
        if kept == rows:
            return kept
        rows = kept


@given(rows_of_logs, st.integers(0, 4), st.integers(0, 4), st.booleans())
def test_core_equals_the_slow_loop_and_is_stable(
    rows: list[Row], user_core: int, item_core: int, by_target: bool
) -> None:
    options: dict[str, Any] = {"by": "target", "target": "buy"} if by_target else {"by": "all"}
    frame = frame_of(rows)
    kept, report = k_core(frame, user_core, item_core, **options)
    assert kept.rows() == slow_core(rows, user_core, item_core, "buy" if by_target else None)
    assert report.rows == frame.height - kept.height
    assert report.users == frame["user_id"].n_unique() - kept["user_id"].n_unique()
    assert report.items == frame["item_id"].n_unique() - kept["item_id"].n_unique()
    assert (report.rounds == 0) == (report.rows == 0)
    again, nothing = k_core(kept, user_core, item_core, **options)
    assert again.equals(kept)
    assert (nothing.rounds, nothing.rows) == (0, 0)


def test_a_chain_unravels_round_by_round() -> None:
    # Each user shares an item with the next: the ends fall, then the new ends.
    rows = [(u, i, "buy") for u in range(5) for i in (u, u + 1)]
    kept, report = k_core(frame_of(rows), 2, 2, target="buy")
    assert kept.is_empty()
    assert (report.rounds, report.users, report.items, report.rows) == (5, 5, 6, 10)
    assert str(report) == (
        "k-core by target: at least 2 items a user and 2 users an item; 5 rounds removed 5 users, "
        "6 items and 10 rows."
    )


def test_repeats_do_not_count_twice() -> None:
    kept, _ = k_core(frame_of([(1, 1, "buy"), (1, 1, "buy"), (1, 1, "view")]), 2, 0, by="all")
    assert kept.is_empty()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"user_core": -1, "by": "all"}, ConfigError, "user_core must be an integer of at least 0"),
        ({"item_core": 1.5, "by": "all"}, ConfigError, "item_core must be an integer .* got 1.5"),
        ({"by": "targte"}, ConfigError, "unknown core 'targte': did you mean 'target'"),
        ({"by": "target"}, DataError, "needs the name of the target behavior"),
    ],
)
def test_rules_that_are_none(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        k_core(frame_of([]), **{"user_core": 1, "item_core": 1, **options})


@given(
    st.lists(
        st.tuples(
            st.integers(0, 3),
            st.integers(0, 3),
            st.sampled_from(["view", "buy"]),
            st.integers(0, 9),
        ),
        max_size=30,
    ),
    st.randoms(),
)
def test_deduplication_keeps_the_earliest_event(
    rows: list[tuple[int, int, str, int]], random: Any
) -> None:
    schema: dict[str, Any] = {
        "user_id": pl.Int64,
        "item_id": pl.Int64,
        "behavior": pl.Enum(["view", "buy"]),
        "timestamp": pl.Int64,
    }
    expected = [
        (*key, len(dates), min(dates), max(dates))
        for key in sorted({row[:3] for row in rows}, key=lambda k: (k[0], k[1], k[2] == "buy"))
        for dates in [[row[3] for row in rows if row[:3] == key]]
    ]
    frame = pl.DataFrame(rows, schema=schema, orient="row")
    result = deduplicate(frame)
    assert result.columns == ["user_id", "item_id", "behavior", "count", "first", "last"]
    assert result.rows() == expected
    random.shuffle(rows)
    assert_frame_equal(deduplicate(pl.DataFrame(rows, schema=schema, orient="row")), result)


def test_undated_events_have_counts_only() -> None:
    result = deduplicate(frame_of([(1, 2, "buy"), (1, 2, "buy")]))
    assert result.to_dicts() == [{"user_id": 1, "item_id": 2, "behavior": "buy", "count": 2}]
