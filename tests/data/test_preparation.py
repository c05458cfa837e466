from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from funnelrec.common.errors import ConfigError, DataError
from funnelrec.data.dataset import AuxiliaryPolicy, Dataset, TrainingData
from funnelrec.data.events import Events, read_events
from funnelrec.data.importers import import_layout
from funnelrec.data.preparation import prepare, prepare_imported
from funnelrec.data.splits import Given, GlobalTime, LeaveOneOut, Split

BEHAVIORS = ("view", "cart", "buy")
Row = tuple[str, int, str, int]

logs = st.lists(
    st.tuples(
        st.sampled_from("abcd"), st.integers(0, 4), st.sampled_from(BEHAVIORS), st.integers(0, 12)
    ),
    min_size=4,
    max_size=50,
)
policies = st.sampled_from(["keep", "before", "drop_pair"])


def log_of(rows: list[Row], *, dated: bool = True) -> Events:
    schema: dict[str, Any] = {
        "user_id": pl.String,
        "item_id": pl.Int64,
        "behavior": pl.Enum(BEHAVIORS),
        "timestamp": pl.Int64,
    }
    frame = pl.DataFrame(rows, schema=schema, orient="row")
    if not dated:
        return Events(frame.drop("timestamp"), BEHAVIORS, "buy")
    return Events(frame, BEHAVIORS, "buy", "as-given")


def shop(seed: int = 0, n: int = 600) -> list[Row]:
    draw = np.random.default_rng(seed)
    return list(
        zip(
            [f"user-{u}" for u in draw.integers(0, 20, n)],
            draw.integers(0, 30, n).tolist(),
            draw.choice(BEHAVIORS, n, p=[0.5, 0.2, 0.3]).tolist(),
            draw.integers(0, 1000, n).tolist(),
            strict=True,
        )
    )


def splits_possible(rows: list[Row]) -> bool:
    pairs = {(u, i) for u, i, b, _ in rows if b == "buy"}
    return any(len([p for p in pairs if p[0] == user]) >= 2 for user, _ in pairs)


def assert_same_training(one: TrainingData, other: TrainingData) -> None:
    assert one.behaviors == other.behaviors
    assert one.user_ids.values.equals(other.user_ids.values)
    assert one.item_ids.values.equals(other.item_ids.values)
    assert set(one.recent) == set(other.recent)
    pairs = [
        *((one.interactions[name], other.interactions[name]) for name in one.behaviors),
        *((one.recent[name], other.recent[name]) for name in one.recent),
    ]
    np.testing.assert_array_equal(one.validation.keys, other.validation.keys)
    for mine, theirs in pairs:
        for name in ("indptr", "indices", "counts", "first", "last"):
            a, b = getattr(mine, name), getattr(theirs, name)
            assert (a is None) == (b is None), name
            if a is not None:
                np.testing.assert_array_equal(a, b)


@given(logs, policies)
def test_matrices_hold_every_training_event_with_counts_and_dates(
    rows: list[Row], policy: AuxiliaryPolicy
) -> None:
    assume(splits_possible(rows))
    dataset = prepare(log_of(rows), auxiliary=policy)
    training = dataset.training
    assert training.user_ids.values.to_list() == sorted({row[0] for row in rows})
    assert training.item_ids.values.to_list() == sorted({row[1] for row in rows})
    held = set(zip(dataset.test.users.tolist(), dataset.test.items.tolist(), strict=True))
    held |= set(
        zip(training.validation.users.tolist(), training.validation.items.tolist(), strict=True)
    )
    bought = training.purchases
    assert not held & set(zip(bought.users.tolist(), bought.items.tolist(), strict=True))
    if policy != "keep":
        return
    events: dict[tuple[str, int, str], list[int]] = {}
    for user, item, behavior, day in rows:
        events.setdefault((user, item, behavior), []).append(day)
    parts = [*training.interactions.items(), ("buy", training.validation), ("buy", dataset.test)]
    found = {}
    for name, part in parts:
        assert part.first is not None
        assert part.last is not None
        columns = (part.users, part.items, part.counts, part.first, part.last)
        for user, item, *measures in zip(*(c.tolist() for c in columns), strict=True):
            key = (training.user_ids.decode([user])[0], training.item_ids.decode([item])[0], name)
            assert key not in found
            found[key] = tuple(measures)
    assert found == {key: (len(days), min(days), max(days)) for key, days in events.items()}


@pytest.mark.parametrize(
    ("split", "dated"),
    [
        (LeaveOneOut(), True),
        (LeaveOneOut(), False),
        (LeaveOneOut(order="random"), True),
        (GlobalTime(), True),
    ],
)
def test_the_fingerprint_does_not_depend_on_the_order_of_rows(split: Split, dated: bool) -> None:
    rows = shop()
    expected = prepare(log_of(rows, dated=dated), split=split)
    shuffled = [rows[place] for place in np.random.default_rng(1).permutation(len(rows))]
    assert prepare(log_of(shuffled, dated=dated), split=split).fingerprint == expected.fingerprint

    def kept(rows: list[Row]) -> str:
        # Under "keep" every event leaves a trace.
        return prepare(log_of(rows, dated=dated), split=split, auxiliary="keep").fingerprint

    assert kept(rows[1:]) != kept(rows)


@settings(max_examples=150)
@given(logs, policies)
def test_refitting_equals_preparing_without_validation(
    rows: list[Row], policy: AuxiliaryPolicy
) -> None:
    assume(splits_possible(rows))
    dataset = prepare(log_of(rows), auxiliary=policy)
    by_hand = prepare(log_of(rows), split=LeaveOneOut(validation=False), auxiliary=policy)
    assert_same_training(dataset.with_validation_in_training().training, by_hand.training)
    np.testing.assert_array_equal(dataset.test.keys, by_hand.test.keys)


def test_refitting_equals_preparing_without_validation_for_everybody() -> None:
    log = log_of(shop())
    dataset = prepare(log, split=GlobalTime(validation_from=500, test_from=800))
    by_hand = prepare(log, split=GlobalTime(validation=0, test_from=800))
    assert set(dataset.training.recent) == {"view", "cart", "buy"}
    assert_same_training(dataset.training.with_validation(), by_hand.training)


def test_before_knows_no_auxiliary_event_after_the_held_out_purchase() -> None:
    dataset = prepare(log_of(shop()))
    test, validation = dataset.test, dataset.training.validation
    assert test.first is not None
    assert validation.first is not None
    cut = np.full(dataset.n_users, np.iinfo(np.int64).max)
    np.minimum.at(cut, test.users, test.first)
    np.minimum.at(cut, validation.users, validation.first)
    for part in dataset.training.interactions.values():
        assert part.last is not None
        assert (part.last <= cut[part.users]).all()
    later = prepare(log_of(shop()), auxiliary="keep").training.interactions["view"]
    assert later.last is not None
    assert (later.last > cut[later.users]).any()


def test_perturbing_the_test_file_changes_no_training_array() -> None:
    log = log_of(shop(), dated=False)
    bought = set(log.frame.filter(behavior="buy").select("user_id", "item_id").iter_rows())
    free = [
        (f"user-{u}", i) for u in range(20) for i in range(30) if (f"user-{u}", i) not in bought
    ]
    assert len(free) > 100
    known, strange = free[:20], [*free[-30:], ("newcomer", 3), ("user-1", 4000)]

    def given_test(pairs: list[tuple[str, int]]) -> Dataset:
        test = pl.DataFrame(pairs, schema=["user_id", "item_id"], orient="row")
        return prepare(log, split=Given(test=test, seed=1))

    one, other = given_test(known), given_test(strange)
    assert one.training.validation.nnz > 0
    assert one.fingerprint != other.fingerprint
    assert_same_training(one.training, given_test(free[40:60]).training)
    # Strangers get the last numbers, so everybody else keeps theirs.
    assert other.training.user_ids.decode([other.n_users - 1]).to_list() == ["newcomer"]
    assert other.training.item_ids.decode([other.n_items - 1]).to_list() == [4000]
    for name in BEHAVIORS:
        mine, theirs = one.training.interactions[name], other.training.interactions[name]
        np.testing.assert_array_equal(mine.users, theirs.users)
        np.testing.assert_array_equal(mine.items, theirs.items)


def test_strangers_of_validation_come_before_those_of_the_test() -> None:
    log = log_of([("a", 1, "buy", 0)], dated=False)
    pairs = {
        name: pl.DataFrame({"user_id": [user], "item_id": [item]})
        for name, user, item in (("validation", "z", 9), ("test", "b", 5))
    }
    dataset = prepare(log, split=Given(**pairs))
    assert dataset.training.user_ids.values.to_list() == ["a", "z", "b"]
    assert dataset.training.item_ids.values.to_list() == [1, 9, 5]


def test_the_manifest_tells_what_was_done(tmp_path: Path) -> None:
    rows = [*shop(), ("lonely", 1, "view", 3)]
    dataset = prepare(log_of(rows), user_core=2, item_core=2, name="shop")
    manifest = dataset.manifest
    assert manifest.name == "shop"
    assert manifest.timestamp_unit == "as-given"
    assert manifest.filters[0].startswith("k-core by target: at least 2 items a user")
    assert "lonely" not in dataset.training.user_ids.values
    assert set(manifest.versions) == {"funnelrec", "numpy", "polars"}
    assert (manifest.split.kind, manifest.split.auxiliary) == ("leave-one-out", "before")
    assert any("repeated training events merged" in note for note in manifest.notes)
    loaded = Dataset.load(dataset.save(tmp_path / "shop"))
    assert loaded.manifest == manifest
    assert_same_training(loaded.training, dataset.training)


def test_notes_account_for_every_event() -> None:
    rows = shop()
    dataset = prepare(log_of(rows))
    parts = [
        *dataset.training.interactions.values(),
        *dataset.training.recent.values(),
        dataset.training.validation,
        dataset.test,
    ]
    stored = sum(int(part.counts.sum()) for part in parts)
    dropped = sum(
        int(note.removesuffix(" dropped.").rpartition(" ")[2].replace(",", ""))
        for note in dataset.manifest.notes
        if note.endswith(" dropped.")
    )
    assert dropped > 0
    assert stored + dropped == len(rows)


def test_numbering_is_compact_after_a_core() -> None:
    dataset = prepare(log_of(shop()), user_core=9, core_by="all")
    assert len(dataset.training.user_ids) <= 20
    assert set(dataset.training.seen.users) | set(dataset.test.users) == set(range(dataset.n_users))


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"user_core": 99}, DataError, "no 'buy' pair is left with user_core=99 and item_core=0"),
        ({"user_core": -1}, ConfigError, "user_core must be an integer of at least 0, got -1"),
        (
            {"item_core": 2, "split": Given(test="test.parquet")},
            ConfigError,
            "cannot be combined with given held-out pairs",
        ),
        ({"auxiliary": "bfore"}, ConfigError, "did you mean 'before'"),
    ],
)
def test_requests_that_cannot_be(
    settings: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        prepare(log_of(shop()), **settings)


@pytest.mark.benchmark_data
def test_the_public_taobao_log_has_its_published_size() -> None:
    folder = Path(os.environ.get("FUNNELREC_DATA", "")) / "taobao15k"
    if "FUNNELREC_DATA" not in os.environ or not folder.is_dir():
        pytest.skip("set FUNNELREC_DATA to the folder that holds taobao15k")
    dataset = prepare(
        read_events(folder / "train.parquet"), split=Given(test=folder / "test.parquet")
    )
    assert (dataset.n_users, dataset.n_items, dataset.test.nnz) == (15_449, 11_953, 15_449)
    training = dataset.training
    assert training.interactions["view"].nnz == 858_505
    assert training.interactions["cart"].nnz == 180_027
    assert training.purchases.nnz + training.validation.nnz == 92_180
    assert training.validation.user_degrees.max() == 1


def test_further_identifiers_join_after_those_of_the_log() -> None:
    log = pl.DataFrame(
        {"user_id": [3, 3, 3], "item_id": [5, 6, 7], "behavior": ["buy", "buy", "buy"]}
    )
    with pytest.warns(UserWarning, match="alone"):
        events = read_events(log, behaviors=["buy"])
    dataset = prepare(events, users=pl.Series([1, 3]), items=pl.Series([9, 5]))
    assert dataset.training.user_ids.values.to_list() == [3, 1]
    assert dataset.training.item_ids.values.to_list() == [5, 6, 7, 9]
    with pytest.raises(DataError, match="further identifiers of item_id must be Int64"):
        prepare(events, items=pl.Series(["nine"]))


def test_an_imported_layout_keeps_its_stated_size(tmp_path: Path) -> None:
    (tmp_path / "count.txt").write_text('{"user": 4, "item": 6}')
    (tmp_path / "view.txt").write_text("1 1\n1 2\n2 3\n")
    (tmp_path / "buy.txt").write_text("1 1\n1 3\n1 4\n2 3\n")
    (tmp_path / "test.txt").write_text("1 5\n2 1\n")
    log = import_layout(tmp_path, behaviors=["view", "buy"])
    dataset = prepare_imported(log, seed=1, name="tiny")
    assert (dataset.n_users, dataset.n_items) == (4, 6)
    assert dataset.test.nnz == 2
    assert dataset.training.validation.nnz == 1
    assert dataset.manifest.split.kind == "given"
