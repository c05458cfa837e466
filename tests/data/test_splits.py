from __future__ import annotations

from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, cast

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from funnelrec.common.errors import ConfigError, DataError, UsageError
from funnelrec.data.dataset import AuxiliaryPolicy
from funnelrec.data.events import Events
from funnelrec.data.splits import (
    Given,
    GlobalTime,
    LeaveOneOut,
    Split,
    SplitEvents,
    split_events,
)

BEHAVIORS = ("view", "cart", "buy")
Row = tuple[int, int, str, int]
Pair = tuple[int, int]
POLICIES: list[AuxiliaryPolicy] = ["keep", "before", "drop_pair"]


def log_of(rows: list[Row], *, dated: bool = True, unit: Any = "as-given") -> Events:
    schema: dict[str, Any] = {
        "user_id": pl.Int64,
        "item_id": pl.Int64,
        "behavior": pl.Enum(BEHAVIORS),
        "timestamp": pl.Int64,
    }
    frame = pl.DataFrame(rows, schema=schema, orient="row")
    if not dated:
        return Events(frame.drop("timestamp"), BEHAVIORS, "buy")
    return Events(frame, BEHAVIORS, "buy", unit)


def pairs_of(frame: pl.DataFrame) -> set[Pair]:
    return set(frame.select("user_id", "item_id").rows())


def content(parts: SplitEvents) -> list[list[Any]]:
    frames = (parts.training, parts.recent, parts.validation, parts.test)
    return [sorted(frame.rows()) for frame in frames]


def first_purchases(rows: list[Row]) -> dict[Pair, int]:
    dates: dict[Pair, int] = {}
    for user, item, behavior, day in rows:
        if behavior == "buy":
            dates[user, item] = min(day, dates.get((user, item), day))
    return dates


logs = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 4), st.sampled_from(BEHAVIORS), st.integers(0, 12)),
    min_size=1,
    max_size=50,
)

# One user: views around every purchase, a repeat of item 1 after everything.
STORY: list[Row] = [
    (1, 1, "view", 1),
    (1, 1, "buy", 2),
    (1, 2, "view", 3),
    (1, 2, "buy", 4),  # validation
    (1, 3, "view", 5),
    (1, 2, "view", 6),
    (1, 3, "cart", 6),
    (1, 3, "buy", 6),  # test
    (1, 3, "view", 7),
    (1, 1, "buy", 8),
    (1, 2, "buy", 8),
]


# Leave one out --------------------------------------------------------------------------------


def test_the_latest_distinct_purchase_tests_and_the_one_before_validates() -> None:
    parts = split_events(log_of(STORY))
    assert pairs_of(parts.test) == {(1, 3)}
    assert pairs_of(parts.validation) == {(1, 2)}
    assert parts.record.model_dump() == {
        "kind": "leave-one-out",
        "order": "time",
        "auxiliary": "before",
        "seed": None,
        "parameters": {"validation": True},
        "refitted": False,
    }


def test_before_cuts_at_the_earliest_held_out_purchase() -> None:
    training, recent, validation, test = content(split_events(log_of(STORY), auxiliary="before"))
    assert training == sorted([(1, 1, "view", 1), (1, 1, "buy", 2), (1, 2, "view", 3)])
    assert recent == sorted([(1, 3, "view", 5), (1, 2, "view", 6), (1, 3, "cart", 6)])
    # The repeat purchases on day 8 come after the test purchase: nothing may know of them.
    assert validation == [(1, 2, "buy", 4)]
    assert test == [(1, 3, "buy", 6)]


def test_without_a_test_the_last_purchase_validates_and_nothing_is_lost() -> None:
    parts = split_events(log_of(STORY), LeaveOneOut(test=False))
    assert parts.test.is_empty()
    assert pairs_of(parts.validation) == {(1, 3)}
    assert parts.record.parameters == {"validation": True, "test": False}
    assert "nothing is held out for a test." in parts.notes
    # Refitted, a model learns from every event of the log.
    training, recent, validation, _ = content(parts)
    assert sorted([*training, *recent, *validation]) == sorted(STORY)
    whole = split_events(log_of(STORY), LeaveOneOut(test=False, validation=False))
    assert sorted(content(whole)[0]) == sorted(STORY)
    single = split_events(log_of([(1, 1, "buy", 1)]), LeaveOneOut(test=False))
    assert single.validation.is_empty()
    assert content(single)[0] == [(1, 1, "buy", 1)]


def test_what_before_removes_is_counted() -> None:
    assert split_events(log_of(STORY)).notes == (
        "3 auxiliary events after the user's held-out purchase set aside until refitting, "
        "1 dropped.",
        "0 repeat purchases after the user's held-out purchase set aside until refitting, "
        "2 dropped.",
        "1 validation pairs of 1 users.",
        "1 test pairs of 1 users.",
    )


def test_keep_removes_the_held_out_purchases_alone() -> None:
    training, recent, validation, test = content(split_events(log_of(STORY), auxiliary="keep"))
    assert training == sorted(row for row in STORY if row[2] != "buy" or row[1] == 1)
    assert (recent, test) == ([], [(1, 3, "buy", 6)])
    assert validation == [(1, 2, "buy", 4), (1, 2, "buy", 8)]


def test_drop_pair_removes_every_trace_of_the_held_out_pairs() -> None:
    training, recent, _, _ = content(split_events(log_of(STORY), auxiliary="drop_pair"))
    assert training == sorted(row for row in STORY if row[1] == 1)
    assert recent == [(1, 2, "view", 3), (1, 2, "view", 6)]


@settings(max_examples=200)
@given(logs, st.booleans(), st.sampled_from(POLICIES))
def test_leave_one_out_by_time_follows_its_rules(
    rows: list[Row], with_validation: bool, policy: AuxiliaryPolicy
) -> None:
    dates = first_purchases(rows)
    per_user = {user: sorted(d for (u, _), d in dates.items() if u == user) for user, _ in dates}
    if all(len(days) < 2 for days in per_user.values()):
        with pytest.raises(
            DataError, match=r"no user has two distinct 'buy' pairs|has no 'buy' event"
        ):
            split_events(log_of(rows))
        return
    parts = split_events(log_of(rows), LeaveOneOut(validation=with_validation), policy)
    test, validation = pairs_of(parts.test), pairs_of(parts.validation)
    for user, days in per_user.items():
        tested = [dates[pair] for pair in test if pair[0] == user]
        validated = [dates[pair] for pair in validation if pair[0] == user]
        assert tested == (days[-1:] if len(days) >= 2 else [])
        assert validated == (days[-2:-1] if len(days) >= 3 and with_validation else [])
    held = test | validation
    assert not test & validation
    bought = parts.training.filter(behavior="buy")
    assert pairs_of(bought) == set(dates) - held
    if policy == "before":
        for user, _, _, day in parts.training.rows():
            assert day <= min([dates[p] for p in held if p[0] == user], default=day)
        for user, _, _, day in [*parts.recent.rows(), *parts.validation.rows()]:
            assert day <= min(dates[p] for p in test if p[0] == user)
        for user, _, _, day in parts.recent.rows():
            assert day > min(dates[p] for p in held if p[0] == user)
    elif policy == "keep":
        total = parts.training.height + parts.validation.height + parts.test.height
        assert total == len(rows)
    else:
        assert not pairs_of(parts.training) & held
        assert pairs_of(parts.recent) <= validation


@given(logs, st.randoms(), st.sampled_from(["time", "random"]), st.integers(0, 5))
def test_the_order_of_rows_does_not_matter(
    rows: list[Row], random: Any, order: str, seed: int
) -> None:
    rows = [*rows, (9, 1, "buy", 1), (9, 2, "buy", 1), (9, 3, "buy", 1)]
    split = LeaveOneOut.create(order=order, seed=seed)
    expected = content(split_events(log_of(rows), split))
    random.shuffle(rows)
    assert content(split_events(log_of(rows), split)) == expected


def test_ties_are_drawn_and_counted() -> None:
    tied: list[Row] = [(user, item, "buy", 5) for user in range(200) for item in range(4)]
    sorted_out: list[Row] = [(999, item, "buy", item) for item in range(4)]
    parts = split_events(log_of(tied + sorted_out), LeaveOneOut(seed=3))
    assert parts.notes[0] == (
        "200 users have several purchases at the date that decides; a draw seeded with 3 chose "
        "among them."
    )
    assert parts.record.seed == 3
    share = parts.test["item_id"].value_counts(normalize=True)["proportion"]
    assert len(share) == 4
    assert (share > 0.15).all()
    other = split_events(log_of(tied + sorted_out), LeaveOneOut(seed=4))
    assert pairs_of(other.test) != pairs_of(parts.test)
    assert (999, 3) in pairs_of(other.test) & pairs_of(parts.test)


def test_a_tie_that_decides_nothing_is_not_counted() -> None:
    rows: list[Row] = [(1, 1, "buy", 1), (1, 2, "buy", 1), (1, 3, "buy", 2), (1, 4, "buy", 3)]
    assert split_events(log_of(rows)).record.seed is None
    # Without a validation pair the tie of items 3 and 4 decides, with one item less it does not.
    tied: list[Row] = [(1, 1, "buy", 1), (1, 3, "buy", 3), (1, 4, "buy", 3)]
    assert split_events(log_of(tied), LeaveOneOut(validation=False)).record.seed == 0


def test_random_order_needs_no_dates_and_favors_no_item() -> None:
    rows: list[Row] = [(user, item, "buy", 0) for user in range(400) for item in range(4)]
    parts = split_events(log_of(rows, dated=False), LeaveOneOut(seed=1))
    assert (parts.record.order, parts.record.seed, parts.record.auxiliary) == ("random", 1, "keep")
    for part in (parts.test, parts.validation):
        assert part.height == 400
        counts = part["item_id"].value_counts()["count"]
        # A fair draw of 400 among 4 has mean 100 and deviation 8.7.
        assert counts.is_between(60, 140).all()
        assert len(counts) == 4


def test_random_order_keeps_later_training_purchases() -> None:
    rows: list[Row] = [(1, item, "buy", item) for item in range(6)]
    parts = split_events(log_of(rows), LeaveOneOut(order="random"), "before")
    assert parts.training.height == 4


def test_users_who_are_not_tested_are_counted() -> None:
    rows: list[Row] = [(1, 1, "buy", 1), (2, 1, "buy", 1), (2, 2, "buy", 2)]
    notes = split_events(log_of(rows)).notes
    assert notes[:2] == (
        "1 users with one distinct purchase are not tested.",
        "1 users with two distinct purchases give no validation pair.",
    )


@pytest.mark.parametrize(
    ("asked", "wanted"),
    [({"validation_fraction": 0.25}, 100), ({"validation_count": 37}, 37), ({}, 400)],
)
@pytest.mark.parametrize("order", ["time", "random"])
def test_a_share_or_a_number_of_users_validates(
    asked: dict[str, Any], wanted: int, order: Any
) -> None:
    rows: list[Row] = [(user, item, "buy", item) for user in range(400) for item in range(3)]
    rows += [(user, item, "view", 2) for user in range(400) for item in range(3)]
    rows += [(400, 0, "buy", 1), (400, 1, "buy", 2)]
    log = log_of(rows)
    all_of_them = split_events(log, LeaveOneOut(order=order, seed=3))
    parts = split_events(log, LeaveOneOut.create(asked, order=order, seed=3))
    validation = pairs_of(parts.validation)
    assert len(validation) == wanted
    assert validation <= pairs_of(all_of_them.validation)
    assert pairs_of(parts.test) == pairs_of(all_of_them.test)
    bought = pairs_of(log.frame.filter(behavior="buy"))
    trained = pairs_of(parts.training.filter(behavior="buy"))
    assert trained == bought - validation - pairs_of(parts.test)
    if order == "time":
        # Day 2 is known to whoever gives no validation pair: only the test purchase cuts.
        assert parts.training.filter(behavior="view").height == 3 * (400 - wanted)
    if asked:
        assert {name: parts.record.parameters[name] for name in asked} == asked
        assert parts.record.seed == 3
        assert f"{wanted:,} of 400 users who can give a validation pair were drawn" in " ".join(
            parts.notes
        )
        other = split_events(log, LeaveOneOut.create(asked, order=order, seed=4))
        users = [set(part.validation["user_id"]) for part in (parts, other)]
        assert users[0] != users[1]
        # Neither the first users nor the last: a draw.
        assert abs(parts.validation["user_id"].to_numpy().mean() - 200) < 60


def test_a_number_of_given_validation_users_is_drawn() -> None:
    rows: list[Row] = [(user, item, "buy", 0) for user in range(50) for item in range(4)]
    log = log_of([*rows, (60, 1, "buy", 0)], dated=False)
    parts = split_events(log, Given(test=given_pairs((60, 3)), validation_count=20, seed=5))
    assert parts.validation["user_id"].n_unique() == parts.validation.height == 20
    assert parts.record.parameters["validation_count"] == 20
    whole = split_events(log, Given(test=given_pairs((60, 3)), seed=5))
    assert pairs_of(parts.validation) < pairs_of(whole.validation)
    shuffled = log_of(
        sorted([*rows, (60, 1, "buy", 0)], key=lambda row: (row[1], -row[0])), dated=False
    )
    again = split_events(shuffled, Given(test=given_pairs((60, 3)), validation_count=20, seed=5))
    assert content(again) == content(parts)
    with pytest.raises(DataError, match=r"validation_count=51 asks for more users than the 50 "):
        split_events(log, Given(test=given_pairs((60, 3)), validation_count=51))


# One date for everybody -----------------------------------------------------------------------


@settings(max_examples=200)
@given(logs, st.integers(1, 11), st.integers(1, 11), st.sampled_from(POLICIES))
def test_global_time_follows_its_rules(
    rows: list[Row], one: int, other: int, policy: AuxiliaryPolicy
) -> None:
    start, stop = min(one, other), max(one, other) + 1
    dates = first_purchases(rows)
    split = GlobalTime(validation_from=start, test_from=stop)
    if not any(day >= stop for day in dates.values()) or not any(
        day < start for day in dates.values()
    ):
        with pytest.raises(DataError):
            split_events(log_of(rows), split, policy)
        return
    parts = split_events(log_of(rows), split, policy)
    test = {pair for pair, day in dates.items() if day >= stop}
    validation = {pair for pair, day in dates.items() if start <= day < stop}
    assert pairs_of(parts.test) == test
    assert pairs_of(parts.validation) == validation
    assert pairs_of(parts.training.filter(behavior="buy")) == set(dates) - test - validation
    if policy == "before":
        expected = [row for row in rows if row[3] < start]
        assert sorted(parts.training.rows()) == sorted(expected)
        refitted = pl.concat([parts.training, parts.recent, parts.validation])
        assert sorted(refitted.rows()) == sorted(row for row in rows if row[3] < stop)


def test_shares_become_dates() -> None:
    rows: list[Row] = [(item % 3, item, "buy", item) for item in range(20)]
    parts = split_events(log_of(rows), GlobalTime(validation=0.2, test=0.1))
    assert sorted(parts.test["item_id"]) == [18, 19]
    assert sorted(parts.validation["item_id"]) == [14, 15, 16, 17]
    assert parts.record.parameters == {
        "validation_from": 14,
        "test_from": 18,
        "validation": 0.2,
        "test": 0.1,
    }


def test_a_number_becomes_a_date() -> None:
    rows: list[Row] = [(item % 3, item, "buy", item) for item in range(20)]
    parts = split_events(log_of(rows), GlobalTime(validation_count=5, test=0.1))
    assert sorted(parts.test["item_id"]) == [18, 19]
    assert sorted(parts.validation["item_id"]) == [13, 14, 15, 16, 17]
    assert parts.record.parameters["validation_count"] == 5
    assert parts.record.parameters["validation"] is None
    with pytest.raises(DataError, match="every target pair would be held out"):
        split_events(log_of(rows), GlobalTime(validation_count=18, test=0.1))


def test_no_validation_share() -> None:
    rows: list[Row] = [(1, item, "buy", item) for item in range(10)]
    parts = split_events(log_of(rows), GlobalTime(validation=0, test=0.2))
    assert (parts.training.height, parts.validation.height, parts.test.height) == (8, 0, 2)


def test_tied_dates_go_to_the_test_together() -> None:
    rows: list[Row] = [(1, item, "buy", min(item, 7)) for item in range(10)]
    assert split_events(log_of(rows), GlobalTime(test=0.1)).test.height == 3


@pytest.mark.parametrize(
    "moment",
    ["2024-01-02", date(2024, 1, 2), datetime(2024, 1, 2), datetime(2024, 1, 2, tzinfo=UTC)],
)
def test_dates_cut_a_log_with_dates(moment: Any) -> None:
    day = 86_400_000_000
    new_year = 1_704_067_200_000_000
    rows: list[Row] = [(1, item, "buy", new_year + item * day) for item in range(3)]
    split = GlobalTime.create(test_from=moment, validation=0)
    parts = split_events(log_of(rows, unit="us"), split)
    assert sorted(parts.test["item_id"]) == [1, 2]
    with pytest.raises(ConfigError, match="test_from must be a number in the log's own unit"):
        split_events(log_of(rows), split)


def test_users_without_training_are_counted() -> None:
    rows: list[Row] = [(1, 1, "buy", 1), (2, 1, "buy", 9)]
    assert (
        "1 users with held-out pairs have no event in training."
        in split_events(log_of(rows), GlobalTime(test_from=5, validation=0)).notes
    )


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"test_from": 100}, DataError, "test_from=100 is later than every first 'buy'; these run"),
        ({"validation_from": 5, "test_from": 5}, ConfigError, "validation_from must lie before"),
        ({"test_from": 0}, DataError, "none is left to train on"),
        ({"test": 0.6, "validation": 0.4}, ConfigError, "validation \\+ test must be below 1"),
        ({"test": 0}, ConfigError, "test: .*greater than 0"),
    ],
)
def test_cuts_that_cannot_be(
    settings: dict[str, Any], error: type[Exception], message: str
) -> None:
    rows: list[Row] = [(1, item, "buy", item) for item in range(10)]
    with pytest.raises(error, match=message):
        split_events(log_of(rows), GlobalTime.create(settings))


# Given pairs ----------------------------------------------------------------------------------

GIVEN_LOG: list[Row] = [
    *((user, item, "buy", item) for user in (1, 2) for item in range(4)),
    (3, 0, "buy", 0),
    (3, 1, "buy", 1),
    *((user, 8, "view", day) for user in (1, 2, 3) for day in (5, 50)),
]


def given_pairs(*pairs: Pair, **columns: Any) -> pl.DataFrame:
    schema = {"user_id": pl.Int64, "item_id": pl.Int64}
    return pl.DataFrame(pairs, schema=schema, orient="row").with_columns(**columns)


def test_given_files_are_taken_as_they_are(tmp_path: Path) -> None:
    given_pairs((1, 8), (2, 9)).write_parquet(tmp_path / "test.parquet")
    given_pairs((1, 7)).rename({"user_id": "who"}).write_csv(tmp_path / "validation.csv")
    given_pairs((1, 8), (2, 9)).rename({"user_id": "who"}).write_csv(tmp_path / "test.csv")
    parts = split_events(
        log_of(GIVEN_LOG, dated=False),
        Given(
            test=tmp_path / "test.csv",
            validation=tmp_path / "validation.csv",
            columns={"user_id": "who"},
        ),
    )
    assert parts.test.rows() == [(1, 8, "buy"), (2, 9, "buy")]
    assert parts.validation.rows() == [(1, 7, "buy")]
    assert sorted(parts.training.rows()) == sorted(row[:3] for row in GIVEN_LOG)
    assert (parts.record.kind, parts.record.order, parts.record.seed) == ("given", "given", None)
    assert parts.record.parameters["test"] == str(tmp_path / "test.csv")
    assert "1 items of the test pairs are absent from the training log." in parts.notes


def test_one_purchase_is_drawn_from_users_with_enough() -> None:
    rows: list[Row] = [(user, item, "buy", 0) for user in range(400) for item in range(4)]
    log = log_of([*rows, (500, 1, "buy", 0), (500, 2, "buy", 0)], dated=False)
    parts = split_events(log, Given(test=given_pairs((500, 3)), seed=5))
    assert parts.validation["user_id"].sort().to_list() == list(range(400))
    assert parts.validation["item_id"].value_counts()["count"].is_between(60, 140).all()
    assert not pairs_of(parts.validation) & pairs_of(parts.training)
    assert parts.record.seed == 5
    other = split_events(log, Given(test=given_pairs((500, 3)), seed=6))
    assert pairs_of(other.validation) != pairs_of(parts.validation)


def test_no_validation_pair_is_drawn_on_request() -> None:
    test = given_pairs((1, 9))
    parts = split_events(log_of(GIVEN_LOG), Given(test=test, holdout_minimum=None))
    assert parts.validation.is_empty()
    parts = split_events(log_of(GIVEN_LOG), Given(test=test, holdout_minimum=5))
    assert parts.validation.is_empty()
    assert parts.notes[1].startswith("no user has 5 distinct purchases in training")


def test_perturbing_the_test_leaves_the_rest_alone() -> None:
    log = log_of(GIVEN_LOG)
    one = split_events(log, Given(test=given_pairs((1, 8), (2, 8)), seed=2))
    other = split_events(log, Given(test=given_pairs((3, 8), (2, 7)), seed=2))
    assert content(one)[:3] == content(other)[:3]


def test_dated_pairs_cut_the_log() -> None:
    test = given_pairs((1, 9), (2, 9), timestamp=pl.Series([40, 60]))
    parts = split_events(log_of(GIVEN_LOG), Given(test=test, holdout_minimum=None))
    assert parts.record.auxiliary == "before"
    views = parts.training.filter(behavior="view").sort("user_id", "timestamp")
    assert views.select("user_id", "timestamp").rows() == [(1, 5), (2, 5), (2, 50), (3, 5), (3, 50)]
    assert parts.test["timestamp"].to_list() == [40, 60]


def test_a_validation_pair_alone_releases_all_on_refitting() -> None:
    test = given_pairs((2, 9), timestamp=pl.Series([60]))
    validation = given_pairs((1, 9), timestamp=pl.Series([20]))
    parts = split_events(log_of(GIVEN_LOG), Given(test=test, validation=validation))
    assert parts.recent.rows() == [(1, 8, "view", 50)]


def test_undated_pairs_keep_auxiliary_events_and_say_so() -> None:
    parts = split_events(log_of(GIVEN_LOG), Given(test=given_pairs((1, 9))))
    assert parts.record.auxiliary == "keep"
    assert any(note.startswith("auxiliary events are kept") for note in parts.notes)
    with pytest.raises(DataError, match="'before' needs the dates of the held-out pairs"):
        split_events(log_of(GIVEN_LOG), Given(test=given_pairs((1, 9))), "before")


def test_repeated_rows_are_merged_and_counted() -> None:
    parts = split_events(log_of(GIVEN_LOG), Given(test=given_pairs((1, 9), (1, 9))))
    assert parts.test.height == 1
    assert "1 repeated test rows merged." in parts.notes


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"test": given_pairs((1, 3), (1, 0), (1, 9))},
            r"^2 of the test pairs in polars DataFrame are 'buy' pairs of the training log as "
            r"well, first \(user 1, item 0\), \(user 1, item 3\); "
            r"take them out of one of the two\.$",
        ),
        (
            {"test": given_pairs((1, 9)), "validation": given_pairs((2, 2))},
            "1 of the validation pairs in polars DataFrame are 'buy' pairs of the training log",
        ),
        (
            {"test": given_pairs((1, 9)), "validation": given_pairs((1, 9), (1, 8))},
            r"1 pairs are held out for validation and for test, first \(user 1, item 9\)",
        ),
        ({"test": given_pairs((1, 9), behavior=pl.lit("view"))}, "is not the target 'buy'"),
        ({"test": given_pairs()}, "holds no rows"),
        ({"test": "nowhere.parquet"}, "no such file"),
        ({"test": given_pairs((1, 9)), "holdout_minimum": 1}, "holdout_minimum: .* got 1"),
        ({}, "test: Field required"),
    ],
)
def test_given_pairs_that_cannot_be(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        split_events(log_of(GIVEN_LOG), Given.create(settings))


# Requests that make no sense ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("split", "policy", "message"),
    [
        (LeaveOneOut(order="time"), None, "leave-one-out by time needs timestamps"),
        (GlobalTime(), None, "at one date for everybody needs timestamps"),
        (LeaveOneOut(), "before", "'before' needs timestamps and the log has none; choose 'keep'"),
        (LeaveOneOut(), "bfore", "unknown auxiliary policy 'bfore': did you mean 'before'"),
        ("time", None, "split must be LeaveOneOut, GlobalTime or Given, got 'time'"),
    ],
)
def test_requests_that_make_no_sense(split: Any, policy: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        split_events(log_of(STORY, dated=False), cast(Split, split), policy)


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        (LeaveOneOut, {"validation_fraction": 0.1, "validation_count": 5}, "leave one out"),
        (LeaveOneOut, {"validation": False, "validation_count": 5}, "with validation=False"),
        (LeaveOneOut, {"validation_count": 0}, "validation_count: must be .* got 0"),
        (LeaveOneOut, {"validation_fraction": 1.5}, "validation_fraction: must be .* got 1.5"),
        (GlobalTime, {"validation_from": 3, "validation_count": 5}, "leave one out"),
        (Given, {"validation": "x", "validation_count": 5}, "with given validation pairs"),
        (Given, {"holdout_minimum": None, "validation_fraction": 0.5}, "holdout_minimum=None"),
    ],
)
def test_shares_and_numbers_that_contradict(
    kind: Any, settings: dict[str, Any], message: str
) -> None:
    more = {"test": "test.csv"} if kind is Given else {}
    with pytest.raises(ConfigError, match=message):
        kind.create(settings, **more)


def test_settings_survive_a_round_trip() -> None:
    split = GlobalTime(test_from=7)
    assert GlobalTime.create(split.model_dump()) == split
    assert Given(test=given_pairs((1, 9))).replace(seed=4).seed == 4
