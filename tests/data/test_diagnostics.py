from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from funnelrec.data.dataset import Dataset, IdMap, Manifest, SplitRecord, TrainingData
from funnelrec.data.diagnostics import Diagnostics, diagnose
from funnelrec.data.interactions import Interactions

Pairs = list[tuple[int, int]]

USERS, ITEMS = 6, 5
pair_lists = st.lists(st.tuples(st.integers(0, USERS - 1), st.integers(0, ITEMS - 1)), max_size=25)


def matrix(pairs: Pairs, n_users: int = USERS, n_items: int = ITEMS) -> Interactions:
    return Interactions.from_pairs(
        [user for user, _ in pairs], [item for _, item in pairs], n_users=n_users, n_items=n_items
    )


def dataset(
    train: dict[str, Pairs],
    validation: Pairs | None = None,
    test: Pairs | None = None,
    recent: dict[str, Pairs] | None = None,
) -> Dataset:
    """Return a data set whose last behavior is the target."""
    return Dataset(
        TrainingData(
            behaviors=tuple(train),
            target=list(train)[-1],
            interactions={name: matrix(pairs) for name, pairs in train.items()},
            validation=matrix(validation or []),
            user_ids=IdMap(pl.Series(range(USERS))),
            item_ids=IdMap(pl.Series(range(ITEMS))),
            recent={name: matrix(pairs) for name, pairs in (recent or {}).items()},
        ),
        matrix(test or []),
        Manifest(name="small", split=SplitRecord(kind="given", order="given", auxiliary="keep")),
    )


def share(part: set[Any], whole: set[Any]) -> float | None:
    return len(part & whole) / len(whole) if whole else None


def small() -> Dataset:
    # User 0 bought 0 and 1, user 1 bought 2; 3 users never bought.
    return dataset(
        {
            "view": [(0, 0), (0, 0), (0, 2), (1, 2), (2, 4), (0, 3)],
            "cart": [(0, 0), (1, 3)],
            "buy": [(0, 0), (0, 1), (1, 2)],
        },
        validation=[(0, 2), (1, 3)],
        test=[(0, 3), (1, 4), (2, 0)],
        recent={"cart": [(1, 4)]},
    )


def test_hand_counted_statistics() -> None:
    report = diagnose(small())
    view, cart, buy = report.sizes["view"], report.sizes["cart"], report.sizes["buy"]
    assert (view.pairs, view.events, view.users, view.items) == (5, 6, 3, 4)
    assert (cart.pairs, cart.conversion) == (2, 0.5)
    assert view.conversion == 2 / 5
    assert view.density == 5 / 30
    assert buy.conversion is None
    assert report.density == 7 / 30
    assert dict(report.training.bar) == {"view": 2 / 3, "cart": 1 / 3}
    assert report.training.direct == 1 / 3
    assert (report.training.users_without, report.training.items_without) == (4, 2)
    # Full set: 00 01 12 | 02 13 | 03 14 20; the late cart on 14 counts, as the raw log has it.
    assert report.full.pairs == 8
    assert dict(report.full.bar) == {"view": 4 / 8, "cart": 3 / 8}
    assert report.full.direct == 2 / 8
    assert (report.full.users_without, report.full.items_without) == (3, 0)
    assert report.validation.touched == 1.0
    assert dict(report.validation.touched_by) == {"view": 0.5, "cart": 0.5}
    assert report.test.touched == 1 / 3
    assert report.test.touched_at_refit == 2 / 3
    assert dict(report.test.per_user) == {1: 3}
    assert set(report.overlaps.values()) == {0}


@settings(max_examples=60, deadline=None)
@given(pair_lists, pair_lists, pair_lists, pair_lists, pair_lists, pair_lists)
def test_equals_counting_with_sets(
    view: Pairs, cart: Pairs, buy: Pairs, validation: Pairs, test: Pairs, late: Pairs
) -> None:
    report = diagnose(
        dataset({"view": view, "cart": cart, "buy": buy}, validation, test, recent={"view": late})
    )
    v, c, b = set(view), set(cart), set(buy)
    held = {"validation": set(validation), "test": set(test)}
    everything = b | held["validation"] | held["test"]
    for part, target, seen in (
        (report.training, b, {"view": v, "cart": c}),
        (report.full, everything, {"view": v | set(late), "cart": c}),
    ):
        assert part.pairs == len(target)
        assert dict(part.bar) == {name: share(pairs, target) for name, pairs in seen.items()}
        touched = share(seen["view"] | seen["cart"], target)
        assert part.direct == (None if touched is None else pytest.approx(1 - touched))
        assert part.users_without == USERS - len({user for user, _ in target})
        assert part.items_without == ITEMS - len({item for _, item in target})
    for split, pairs in held.items():
        part = getattr(report, split)
        assert part.touched == share(v | c, pairs)
        assert part.touched_at_refit == share(v | c | set(late), pairs)
        per_user = Counter(Counter(user for user, _ in pairs).values())
        assert dict(part.per_user) == dict(sorted(per_user.items()))
        assert (part.pairs, part.users) == (len(pairs), sum(per_user.values()))
    assert dict(report.overlaps) == {
        "train & test": len(b & held["test"]),
        "train & validation": len(b & held["validation"]),
        "validation & test": len(held["validation"] & held["test"]),
    }
    for name, rows, pairs in (("view", view, v), ("cart", cart, c), ("buy", buy, b)):
        size = report.sizes[name]
        assert (size.pairs, size.events) == (len(pairs), len(rows))
        assert size.conversion == (None if name == "buy" else share(b, pairs))
    json.dumps(report.to_dict(), allow_nan=False)
    assert printed(report)


def printed(report: Diagnostics) -> str:
    console = Console(width=100, force_terminal=False)
    with console.capture() as capture:
        console.print(report.render())
    return capture.get()


def test_training_statistics_do_not_see_held_out_pairs() -> None:
    data = small()
    other = Dataset(data.training, matrix([(4, 4), (5, 1)]), data.manifest)
    one, two = diagnose(data), diagnose(other)
    assert one.training == two.training
    assert one.sizes == two.sizes
    assert one.validation == two.validation
    assert one.full != two.full


def test_bar_is_one_and_dt_zero_where_a_behavior_contains_the_target() -> None:
    report = diagnose(dataset({"view": [(0, 0), (1, 1), (2, 2)], "buy": [(0, 0), (1, 1)]}))
    assert dict(report.full.bar) == {"view": 1.0}
    assert report.full.direct == 0.0


def test_target_alone_has_only_direct_purchases() -> None:
    report = diagnose(dataset({"buy": [(0, 0), (1, 1)]}, test=[(0, 1)]))
    assert dict(report.full.bar) == {}
    assert report.full.direct == 1.0
    assert report.test.touched == 0.0
    assert "buy (target)" in printed(report)


def test_what_has_no_denominator_is_undefined_and_not_zero() -> None:
    report = diagnose(dataset({"view": [], "buy": []}))
    assert report.training.bar["view"] is None
    assert report.training.direct is None
    assert report.test.touched is None
    assert report.sizes["view"].conversion is None
    frame = report.to_frame()
    assert frame.filter(pl.col("statistic") == "direct")["value"].null_count() == 2


def test_frame_and_dict_hold_the_same_numbers() -> None:
    report = diagnose(small())
    frame, tree = report.to_frame(), report.to_dict()
    assert frame.schema == pl.Schema(
        {"section": pl.String, "statistic": pl.String, "behavior": pl.String, "value": pl.Float64}
    )
    assert frame.select("section", "statistic", "behavior").is_duplicated().sum() == 0

    def value(section: str, statistic: str, behavior: str | None = None) -> float:
        row = frame.filter(
            (pl.col("section") == section)
            & (pl.col("statistic") == statistic)
            & pl.col("behavior").eq_missing(pl.lit(behavior))
        )
        return float(row["value"].item())

    for name in ("full", "training"):
        section = f"alignment_{name}"
        for behavior, bar in tree["alignment"][name]["bar"].items():
            assert value(section, "bar", behavior) == bar
        assert value(section, "direct") == tree["alignment"][name]["direct"]
    for split in ("validation", "test"):
        assert value(split, "touched") == tree["held_out"][split]["touched"]
        for count, users in tree["held_out"][split]["per_user"].items():
            assert value(split, f"users_with_{count}") == users
    for behavior, size in tree["behaviors"].items():
        assert value("behaviors", "events", behavior) == size["events"]
    assert json.loads(json.dumps(tree)) == tree


def test_table_shows_the_numbers_and_warns_of_shared_pairs() -> None:
    text = printed(diagnose(small()))
    for expected in ("BAR view", "0.5000", "0.6667", "touched at refit", "splits are disjoint"):
        assert expected in text
    leaking = diagnose(dataset({"view": [(0, 0)], "buy": [(0, 0), (1, 1)]}, test=[(0, 0)]))
    assert leaking.overlaps["train & test"] == 1
    assert "splits share target pairs: train & test: 1" in printed(leaking)


def test_statistics_cannot_be_changed() -> None:
    report = diagnose(small())
    with pytest.raises(TypeError):
        report.full.bar["view"] = 1.0  # type: ignore[index]  # the point of the test
    with pytest.raises(AttributeError):
        report.n_users = 3  # type: ignore[misc]  # the point of the test


def benchmark(folder: str, behaviors: tuple[str, ...]) -> Dataset:
    root = os.environ.get("FUNNELREC_DATA")
    if not root or not (Path(root) / folder).is_dir():
        pytest.skip(f"set FUNNELREC_DATA to the folder that holds {folder}")
    parts = {
        split: pl.read_parquet(Path(root) / folder / f"{split}.parquet")
        for split in ("train", "validation", "test")
    }
    rows = pl.concat(parts.values())
    users, items = (IdMap(rows[name].unique().sort()) for name in ("user_id", "item_id"))

    def made(frame: pl.DataFrame) -> Interactions:
        return Interactions.from_pairs(
            users.encode(frame["user_id"]),
            items.encode(frame["item_id"]),
            n_users=len(users),
            n_items=len(items),
        )

    train = parts["train"]
    training = TrainingData(
        behaviors=behaviors,
        target=behaviors[-1],
        interactions={name: made(train.filter(pl.col("behavior") == name)) for name in behaviors},
        validation=made(parts["validation"]),
        user_ids=users,
        item_ids=items,
    )
    record = SplitRecord(kind="given", order="given", auxiliary="keep")
    return Dataset(training, made(parts["test"]), Manifest(name=folder, split=record))


@pytest.mark.benchmark_data
def test_taobao_gives_the_values_of_table_1() -> None:
    report = diagnose(benchmark("taobao48k_no_view", ("cart", "purchase")))
    assert (report.n_users, report.n_items) == (48_749, 39_493)
    assert report.sizes["cart"].pairs == 193_747
    assert report.full.pairs == 259_771
    assert report.full.bar["cart"] == pytest.approx(0.1509, abs=5e-5)
    assert report.training.bar["cart"] == pytest.approx(0.1403, abs=5e-5)
    assert set(report.overlaps.values()) == {0}


@pytest.mark.benchmark_data
def test_tmall_gives_the_values_of_table_1() -> None:
    report = diagnose(benchmark("tmall41k_no_view", ("collect", "cart", "purchase")))
    assert report.full.pairs == 287_158
    assert report.full.bar["collect"] == pytest.approx(0.1009, abs=5e-5)
    assert report.full.bar["cart"] == pytest.approx(0.0012, abs=5e-5)
    assert (report.validation.pairs, report.validation.users) == (74_158, 41_314)
    assert np.sum(list(report.test.per_user.values())) == 29_310
