from __future__ import annotations

from collections import Counter
from itertools import combinations
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from funnelrec.common.errors import ConfigError, DataError
from funnelrec.data.dataset import Dataset, IdMap, Manifest, SplitRecord, TrainingData
from funnelrec.data.interactions import Interactions
from funnelrec.data.perturbation import distinct, perturb, perturb_dataset

USERS, ITEMS = 30, 40


def behavior(seed: int, n: int, *, dated: bool = True) -> Interactions:
    rng = np.random.default_rng(seed)
    users, items = np.divmod(rng.choice(USERS * ITEMS, n, replace=False), ITEMS)
    dates = rng.integers(1_000, 2_000, n) if dated else None
    return Interactions.from_pairs(
        users,
        items,
        n_users=USERS,
        n_items=ITEMS,
        counts=rng.integers(1, 4, n),
        first=dates,
        last=None if dates is None else dates + 5,
    )


def training(*, dated: bool = True, **sizes: int) -> TrainingData:
    sizes = sizes or {"view": 301, "cart": 90}
    parts = {name: behavior(place, n, dated=dated) for place, (name, n) in enumerate(sizes.items())}
    parts["purchase"] = behavior(8, 60, dated=dated)
    return TrainingData(
        behaviors=tuple(parts),
        target="purchase",
        interactions=parts,
        validation=behavior(9, 20, dated=dated),
        user_ids=IdMap(pl.Series(range(USERS))),
        item_ids=IdMap(pl.Series(range(ITEMS))),
        recent={"view": behavior(10, 41, dated=dated)},
    )


def same(left: Interactions, right: Interactions) -> bool:
    arrays = ("indptr", "indices", "counts", "first", "last")
    return all(
        np.array_equal(getattr(left, name), getattr(right, name))
        if getattr(left, name) is not None
        else getattr(right, name) is None
        for name in arrays
    )


def rows(part: Interactions) -> dict[int, tuple[int, ...]]:
    columns: list[Any] = [part.keys, part.counts]
    columns += [dates for dates in (part.first, part.last) if dates is not None]
    return {key: tuple(rest) for key, *rest in np.stack(columns, axis=1).tolist()}


@pytest.mark.parametrize("dated", [True, False])
@pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 1.0])
def test_drop_removes_exactly_the_share_and_nothing_else(share: float, dated: bool) -> None:
    data = training(dated=dated)
    noisy = perturb(data, drop=share, seed=3)
    for name in ("view", "cart"):
        before, after = rows(data.interactions[name]), rows(noisy.interactions[name])
        assert len(after) == len(before) - round(share * len(before))
        assert after.items() <= before.items()
    assert noisy.recent["view"].nnz == 41 - round(share * 41)
    assert rows(noisy.recent["view"]).items() <= rows(data.recent["view"]).items()


@pytest.mark.parametrize("dated", [True, False])
@pytest.mark.parametrize("share", [0.1, 0.5, 2.0])
def test_add_brings_exactly_the_share_of_new_pairs(share: float, dated: bool) -> None:
    data = training(dated=dated)
    noisy = perturb(data, add=share, seed=3)
    for name in ("view", "cart"):
        part = data.interactions[name]
        before, after = rows(part), rows(noisy.interactions[name])
        assert before.items() <= after.items()
        new = [values for key, values in after.items() if key not in before]
        assert len(new) == round(share * len(before))
        assert {count for count, *_ in new} == {1}
        if part.first is None:
            assert noisy.interactions[name].first is None
        else:
            assert {first for _, first, _ in new} <= set(part.first.tolist())
            assert all(first == last for _, first, last in new)
    # A refitted model must not find that an added pair was a withheld edge all along.
    added = set(rows(noisy.interactions["view"])) - set(rows(data.interactions["view"]))
    assert not added & set(rows(data.recent["view"]))


def test_both_at_once_never_bring_back_what_was_dropped() -> None:
    data = training()
    noisy = perturb(data, add=0.5, drop=0.5, seed=1)
    before, after = (set(rows(d.interactions["view"])) for d in (data, noisy))
    assert len(before & after) == 301 - 150
    assert len(after - before) == 150


def test_target_and_held_out_are_untouched() -> None:
    data = training()
    noisy = perturb(data, add=1.0, drop=0.9, seed=1)
    assert noisy.purchases is data.purchases
    assert noisy.validation is data.validation
    assert noisy.user_ids is data.user_ids


def test_share_per_behavior() -> None:
    data = training()
    noisy = perturb(data, drop={"cart": 0.5}, seed=1)
    assert noisy.interactions["cart"].nnz == 45
    assert same(noisy.interactions["view"], data.interactions["view"])
    nothing = perturb(data, seed=1)
    assert all(same(nothing.interactions[b], data.interactions[b]) for b in data.behaviors)


def test_seeds_and_streams() -> None:
    data = training(view=200, cart=200)
    once, again, other = (perturb(data, add=0.2, drop=0.3, seed=seed) for seed in (5, 5, 6))
    for name in data.auxiliary:
        assert same(once.interactions[name], again.interactions[name])
        assert not same(once.interactions[name], other.interactions[name])
    # Behaviors draw from streams of their own: equal matrices lose different edges, and what one
    # loses does not depend on what is asked of the other.
    twins = TrainingData(
        behaviors=data.behaviors,
        target=data.target,
        interactions={**data.interactions, "cart": data.interactions["view"]},
        validation=data.validation,
        user_ids=data.user_ids,
        item_ids=data.item_ids,
    )
    noisy = perturb(twins, drop=0.3, seed=5)
    assert not same(noisy.interactions["view"], noisy.interactions["cart"])
    alone = perturb(twins, drop={"cart": 0.3}, seed=5)
    assert same(alone.interactions["cart"], noisy.interactions["cart"])


def test_dense_behavior_can_be_filled_to_the_last_pair() -> None:
    cells = 6
    keys = np.array([0, 2, 3])
    part = Interactions.from_pairs(keys // 3, keys % 3, n_users=2, n_items=3)
    data = TrainingData(
        behaviors=("view", "purchase"),
        target="purchase",
        interactions={"view": part, "purchase": Interactions.empty(2, 3)},
        validation=Interactions.empty(2, 3),
        user_ids=IdMap(pl.Series([0, 1])),
        item_ids=IdMap(pl.Series([0, 1, 2])),
    )
    full = perturb(data, add=1.0, seed=0).interactions["view"]
    assert full.keys.tolist() == list(range(cells))
    with pytest.raises(
        ConfigError,
        match=r"^add asks for 4 new pairs of 'view', but only 3 of the 2 x 3 pairs have no edge",
    ):
        perturb(data, add=1.3, seed=0)


def test_added_pairs_are_uniform_over_the_absent_ones() -> None:
    # 2 x 4 pairs, 3 of them present: each of the C(5, 2) pairs of absent cells is equally likely.
    part = Interactions.from_pairs([0, 0, 1], [1, 2, 3], n_users=2, n_items=4)
    data = TrainingData(
        behaviors=("view", "purchase"),
        target="purchase",
        interactions={"view": part, "purchase": Interactions.empty(2, 4)},
        validation=Interactions.empty(2, 4),
        user_ids=IdMap(pl.Series([0, 1])),
        item_ids=IdMap(pl.Series([0, 1, 2, 3])),
    )
    draws = 2_000
    seen = Counter(
        tuple(sorted(set(perturb(data, add=0.7, seed=s).interactions["view"].keys.tolist())))
        for s in range(draws)
    )
    absent = [0, 3, 4, 5, 6]
    expected = {tuple(sorted([1, 2, 7, *pair])) for pair in combinations(absent, 2)}
    assert set(seen) == expected
    statistic = sum((n - draws / 10) ** 2 / (draws / 10) for n in seen.values())
    assert statistic < 27.9  # chi-square with 9 degrees of freedom, .999


def test_dropped_edges_are_uniform() -> None:
    data = training()
    draws, dropped = 400, np.zeros(301)
    keys = data.interactions["view"].keys
    for seed in range(draws):
        kept = perturb(data, drop={"view": 0.3}, seed=seed).interactions["view"].keys
        dropped += ~np.isin(keys, kept)
    expected = draws * 90 / 301
    statistic = float(((dropped - expected) ** 2).sum() / (expected * (1 - 90 / 301)))
    assert statistic < 381.4  # chi-square with 300 degrees of freedom, .999


@settings(max_examples=50)
@given(st.integers(1, 60), st.data(), st.integers(0, 2**32))
def test_distinct(population: int, data: st.DataObject, seed: int) -> None:
    size = data.draw(st.integers(0, population))
    found = distinct(np.random.default_rng(seed), population, size)
    assert len(set(found.tolist())) == size
    assert all(0 <= number < population for number in found)


def test_distinct_of_a_huge_population() -> None:
    found = distinct(np.random.default_rng(0), 10**15, 1_000)
    assert np.unique(found).size == 1_000


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"drop": 1.2}, ConfigError, r"^drop of 'view' must be a share from 0 to 1, got 1\.2\.$"),
        ({"drop": -0.1}, ConfigError, r"^drop of 'view' must be a share from 0 to 1, got -0\.1\.$"),
        ({"add": {"cart": -1}}, ConfigError, r"^add of 'cart' must be a share at least 0 and"),
        ({"add": float("nan")}, ConfigError, r"got nan\.$"),
        ({"add": float("inf")}, ConfigError, r"got inf\.$"),
        ({"add": "much"}, ConfigError, r"got 'much'\.$"),
        ({"drop": True}, ConfigError, r"got True\.$"),
        ({"add": {"purchase": 0.1}}, DataError, r"^add names the target behavior 'purchase'"),
        ({"drop": {"veiw": 0.1}}, DataError, r"^drop names the unknown behavior 'veiw': did you"),
    ],
)
def test_bad_input(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        perturb(training(), **arguments, seed=0)


def test_without_auxiliary_behavior_the_share_is_still_checked() -> None:
    data = training().without("view", "cart")
    assert same(perturb(data, drop=0.5, seed=0).purchases, data.purchases)
    with pytest.raises(ConfigError, match=r"^drop must be a share from 0 to 1, got 7\.$"):
        perturb(data, drop=7, seed=0)


def test_dataset_records_its_noise() -> None:
    dataset = Dataset(
        training=training(),
        test=behavior(11, 20),
        manifest=Manifest(
            split=SplitRecord(kind="given", order="given", auxiliary="keep", seed=None),
            filters=("5-core",),
        ),
    )
    noisy = perturb_dataset(dataset, add={"cart": 0.1}, drop=0.5, seed=4)
    assert noisy.test is dataset.test
    expected = perturb(dataset.training, add={"cart": 0.1}, drop=0.5, seed=4)
    for name in dataset.behaviors:
        assert same(noisy.training.interactions[name], expected.interactions[name])
    assert noisy.manifest.filters == (
        "5-core",
        "perturbation: drop 0.5 of view (150 edges), seed 4",
        "perturbation: drop 0.5 of cart (45 edges), seed 4",
        "perturbation: add 0.1 of cart (9 edges), seed 4",
    )
    assert noisy.fingerprint != dataset.fingerprint
    assert perturb_dataset(dataset, seed=4).manifest == dataset.manifest
