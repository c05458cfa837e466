"""The data sets are what they say: shapes, edge cases, planted truth."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import find, given
from hypothesis import settings as hypothesis_settings

from funnelrec.common.errors import DataError, MissingExtraError, UsageError
from funnelrec.data.dataset import Dataset
from funnelrec.data.interactions import Interactions
from funnelrec.evaluation import evaluate
from funnelrec.models import create_model
from funnelrec.testing import (
    datasets,
    make_dataset,
    planted_dataset,
    popular_dataset,
    relabel,
    sparse_matrices,
    tiny_dataset,
)


def pairs(part: Interactions) -> set[tuple[int, int]]:
    return set(zip(part.users.tolist(), part.items.tolist(), strict=True))


# -- make_dataset ----------------------------------------------------------------------------


def test_make_dataset_takes_the_last_behavior_for_the_target() -> None:
    part = Interactions.from_pairs([0], [1], n_users=2, n_items=3)
    data = make_dataset({"view": part, "purchase": part})
    assert (data.behaviors, data.target) == (("view", "purchase"), "purchase")
    assert make_dataset({"view": part, "purchase": part}, target="view").target == "view"
    assert (data.test.nnz, data.training.validation.nnz) == (0, 0)
    assert data.manifest.timestamp_unit == "none"


def test_integer_identifiers_are_not_the_dense_numbers() -> None:
    data = tiny_dataset(ids="integer")
    for ids in (data.training.user_ids, data.training.item_ids):
        numbers = ids.values.to_numpy()
        assert ids.values.dtype.is_integer()
        assert not set(numbers.tolist()) & set(range(len(ids)))
        # Not even in their order.
        assert np.all(np.diff(numbers) < 0)


def test_make_dataset_refuses_what_is_no_data_set() -> None:
    part = Interactions.empty(2, 3)
    with pytest.raises(UsageError, match="at least one behavior"):
        make_dataset({})
    with pytest.raises(DataError, match=r"every matrix must have shape \(2, 3\), got \(3, 3\)"):
        make_dataset({"purchase": part}, validation=Interactions.empty(3, 3))
    with pytest.raises(DataError, match="'buy' is not among"):
        make_dataset({"purchase": part}, target="buy")


# -- tiny_dataset ----------------------------------------------------------------------------


def test_tiny_dataset_has_the_edge_cases_asked_for() -> None:
    data = tiny_dataset(4, 30, 20, empty_users=3, empty_items=2)
    seen = data.training.seen
    assert data.training.shape == (30, 20)
    assert np.flatnonzero(seen.user_degrees[-3:]).size == 0
    assert np.flatnonzero(seen.item_degrees[-2:]).size == 0
    held = data.training.validation.user_degrees + data.test.user_degrees
    assert held[-3:].tolist() == [0, 0, 0]

    full = tiny_dataset(4, 30, 20, empty_items=0, complete_users=2)
    assert full.training.purchases.user_degrees[:2].tolist() == [20, 20]
    assert full.test.user_degrees[:2].tolist() == [0, 0]


def test_tiny_dataset_holds_out_what_was_not_bought() -> None:
    data = tiny_dataset(7)
    bought, validation, test = (
        pairs(part) for part in (data.training.purchases, data.training.validation, data.test)
    )
    assert not bought & validation
    assert not (bought | validation) & test
    active = data.training.seen.user_degrees > 0
    assert data.test.user_degrees.tolist() == active.astype(int).tolist()
    assert data.training.validation.user_degrees.tolist() == active.astype(int).tolist()
    touched = data.training.touched.contains(data.test.users, data.test.items)
    assert 0 < touched.sum() < touched.size
    without = tiny_dataset(7, held_out=False)
    assert (without.test.nnz, without.training.validation.nnz) == (0, 0)
    assert pairs(without.training.purchases) == bought


def test_weaker_behaviors_are_denser_and_pairs_repeat() -> None:
    parts = tiny_dataset(0, 200, 100).training.interactions
    sizes = [part.nnz for part in parts.values()]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] == pytest.approx(0.15 * 199 * 99, rel=0.12)
    assert max(int(part.counts.max()) for part in parts.values()) > 1
    empty = tiny_dataset(0, empty_behaviors=("cart",)).training.interactions
    assert [name for name, part in empty.items() if not part.nnz] == ["cart"]


def test_dates_are_there_if_asked_for() -> None:
    dated = tiny_dataset(dated=True)
    assert dated.training.has_timestamps
    assert dated.manifest.timestamp_unit == "as-given"
    for part in dated.training.interactions.values():
        assert part.first is not None
        assert part.last is not None
        assert np.all(part.first <= part.last)
        assert dated.test.first is not None
        assert part.last.max() <= dated.test.first.min()
    assert not tiny_dataset().training.has_timestamps


def test_a_seed_is_a_data_set() -> None:
    prints = [
        build(seed).fingerprint
        for build in (tiny_dataset, planted_dataset, popular_dataset)
        for seed in (0, 0, 1)
    ]
    assert prints[::3] == prints[1::3]
    assert len(set(prints)) == 6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"empty_users": 24}, "got 24 empty of 24 users"),
        ({"empty_items": -1}, "got 1 empty of 24 users and -1 empty of 16 items"),
        ({"complete_users": 1}, "complete_users=1, empty_items=1"),
        ({"complete_users": 24, "empty_items": 0}, "must be active"),
        ({"density": 0.0}, r"density must lie in \(0, 1\], got 0.0"),
    ],
)
def test_tiny_dataset_refuses_contradictions(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        tiny_dataset(**options)


# -- planted_dataset -------------------------------------------------------------------------


def test_purchases_alone_say_nothing_in_the_planted_data() -> None:
    data = planted_dataset(3)
    bought = data.training.purchases
    # One purchase a user: no user connects two items. Two buyers an item: no item is popular.
    assert set(bought.user_degrees.tolist()) == {1}
    assert set(bought.item_degrees.tolist()) == {2}
    assert set(data.test.user_degrees.tolist()) == {1}
    assert set(data.training.validation.user_degrees.tolist()) == {1}
    held = pairs(data.test) | pairs(data.training.validation)
    assert len(held) == 2 * data.n_users
    assert not held & pairs(bought)


def test_views_show_the_groups_of_the_planted_data() -> None:
    data = planted_dataset(3)
    views = data.training.interactions["view"].matrix().astype(np.float64)
    # Users who share at least two viewed items, taken transitively, are the planted groups.
    together = (views @ views.T).tocsr()
    together.data[together.data < 3] = 0
    together.eliminate_zeros()
    number, label = sp.csgraph.connected_components(together)
    groups = np.bincount(label)
    assert sorted(groups[groups > 1].tolist()) == [24] * 5, (number, groups)
    # A held-out item is one that the own group views.
    group_views = np.zeros((number, data.n_items))
    np.add.at(group_views, label, views.toarray())
    rank = (-group_views[label[data.test.users]]).argsort(axis=1).argsort(axis=1)
    assert (rank[np.arange(data.test.nnz), data.test.items] < 12).all()
    share = data.training.touched.contains(data.test.users, data.test.items).mean()
    assert 0.35 < share < 0.65


@pytest.mark.parametrize("seed", [0, 1])
def test_only_a_model_that_reads_views_solves_the_planted_data(seed: int) -> None:
    data = planted_dataset(seed)
    settings = {"epochs": 40, "dim": 16, "learning_rate": 0.01, "seed": 2, "device": "cpu"}

    def hit_rate(name: str, **options: Any) -> float:
        found = evaluate(create_model(name, **options).fit(data), data, k=10).to_dict()
        return float(found["overall"]["hr@10"])

    chance = 10 / (data.n_items - 1)
    assert hit_rate("popularity") < chance
    assert hit_rate("mf_bpr", **settings) < chance + 0.15
    assert hit_rate("lightgcn", **settings) < chance + 0.15
    assert hit_rate("conversion") > chance + 0.2
    whole = hit_rate("rmbrec", **settings)
    assert whole > chance + 0.4
    assert whole > hit_rate("rmbrec", without=("view",), **settings) + 0.3


def test_planted_dataset_refuses_uneven_groups() -> None:
    with pytest.raises(UsageError, match=r"multiple of group_items, got .* group_users=25"):
        planted_dataset(group_users=25)
    with pytest.raises(UsageError, match="at least 2 groups"):
        planted_dataset(n_groups=1)


# -- popular_dataset and relabel -------------------------------------------------------------


def test_held_out_purchases_of_the_popular_data_are_popular() -> None:
    data = popular_dataset(1)
    popular = np.argsort(-data.training.purchases.item_degrees)[:8]
    for part in (data.test, data.training.validation):
        assert set(part.items.tolist()) <= set(popular.tolist())
        assert not pairs(part) & pairs(data.training.purchases)
    assert not pairs(data.test) & pairs(data.training.validation)
    assert data.training.has_timestamps
    with pytest.raises(UsageError, match="9 items, got 100 and 8"):
        popular_dataset(n_items=8)


def test_relabel_moves_pairs_and_identifiers_together() -> None:
    data = tiny_dataset(5, dated=True)
    rng = np.random.default_rng(0)
    users, items = rng.permutation(data.n_users), rng.permutation(data.n_items)
    moved = relabel(data, users, items)

    def named(source: Dataset, part: Interactions) -> set[tuple[object, ...]]:
        training = source.training
        assert part.first is not None
        columns = (
            training.user_ids.decode(part.users).to_list(),
            training.item_ids.decode(part.items).to_list(),
            part.counts.tolist(),
            part.first.tolist(),
        )
        return set(zip(*columns, strict=True))

    for name, part in data.training.interactions.items():
        assert named(moved, moved.training.interactions[name]) == named(data, part)
    assert named(moved, moved.test) == named(data, data.test)
    assert moved.fingerprint != data.fingerprint
    back = relabel(moved, np.argsort(users), np.argsort(items))
    assert back.fingerprint == data.fingerprint
    with pytest.raises(UsageError, match=r"items must be a permutation of 0..15"):
        relabel(data, users, np.zeros(16))


# -- strategies ------------------------------------------------------------------------------


@given(datasets())
def test_drawn_data_sets_are_sound(data: Dataset) -> None:
    bought, validation, test = (
        pairs(part) for part in (data.training.purchases, data.training.validation, data.test)
    )
    assert bought
    assert not bought & validation
    assert not (bought | validation) & test
    assert 1 <= data.n_users <= 8
    assert 1 <= data.n_items <= 8
    assert 1 <= len(data.behaviors) <= 4
    assert data.target == data.behaviors[-1] == "purchase"
    dated = {part.first is not None for part in data.training.interactions.values()}
    assert dated == {data.training.has_timestamps}


@pytest.mark.parametrize(
    "wanted",
    [
        lambda data: data.n_users > 1 and 0 in data.training.seen.user_degrees,
        lambda data: data.n_items in data.training.purchases.user_degrees,
        lambda data: any(not part.nnz for part in data.training.interactions.values()),
        lambda data: any((part.counts > 1).any() for part in data.training.interactions.values()),
        lambda data: data.test.nnz and data.training.has_timestamps,
        lambda data: len(data.behaviors) == 1,
        lambda data: data.training.touched.contains(data.test.users, data.test.items).any(),
    ],
    ids=["empty user", "complete user", "empty behavior", "repeats", "dated", "alone", "touched"],
)
def test_every_edge_case_can_be_drawn(wanted: Any) -> None:
    find(datasets(), wanted, settings=hypothesis_settings(max_examples=2000, database=None))


@given(datasets(dated=False, max_behaviors=1))
def test_the_bounds_of_a_strategy_hold(data: Dataset) -> None:
    assert data.behaviors == ("purchase",)
    assert not data.training.has_timestamps


def test_a_log_without_purchases_can_be_drawn_on_request() -> None:
    found = find(datasets(trainable=False), lambda data: not data.training.purchases.nnz)
    assert found.training.purchases.nnz == 0


@given(sparse_matrices(max_rows=5, max_columns=4, weighted=True))
def test_drawn_matrices_are_canonical(matrix: sp.csr_array) -> None:
    rows, columns = matrix.shape
    assert 1 <= rows <= 5
    assert 1 <= columns <= 4
    assert matrix.dtype == np.float32
    assert matrix.indices.dtype == matrix.indptr.dtype == np.int32
    assert matrix.has_canonical_format
    assert set((matrix.data * 8).tolist()) <= set(range(1, 33))
    assert len(matrix.data) == np.count_nonzero(matrix.toarray())


def test_matrices_are_binary_unless_weighted() -> None:
    found = find(sparse_matrices(), lambda matrix: matrix.nnz > 3)
    assert set(found.data.tolist()) == {1.0}
    assert find(sparse_matrices(), lambda matrix: not matrix.nnz).shape == (1, 1)


def test_strategies_name_the_group_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "hypothesis.strategies", None)
    for strategy in (datasets, sparse_matrices):
        with pytest.raises(MissingExtraError, match=r"funnelrec\[testing\]"):
            strategy()


def test_the_package_is_imported_without_hypothesis(python_environment: dict[str, str]) -> None:
    code = "import sys, funnelrec.testing; print('hypothesis' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env=python_environment,
    )
    assert done.stdout.strip() == "False"
