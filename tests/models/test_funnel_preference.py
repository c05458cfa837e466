from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from funnelrec.data.dataset import Dataset
from funnelrec.data.interactions import Interactions
from funnelrec.models.funnel.candidates import Candidates, ranks_and_scores
from funnelrec.models.funnel.moments import moment, present
from funnelrec.models.funnel.preference import Preference, untouched_features
from funnelrec.testing import datasets, make_dataset, tiny_dataset

Dense = npt.NDArray[np.float64]
PROPOSING = ("walks", "baskets", "leads", "gentle walks", "gentle leads")


def dense(pairs: Interactions) -> Dense:
    matrix = np.zeros(pairs.shape)
    matrix[pairs.users, pairs.items] = 1
    return matrix


def divided(matrix: Dense, user_power: float, item_power: float, power: float = 1) -> Dense:
    rows, columns = matrix.sum(axis=1), matrix.sum(axis=0)
    by_row = np.where(rows > 0, np.where(rows > 0, rows, 1) ** -user_power, 0)
    by_column = np.where(columns > 0, np.where(columns > 0, columns, 1) ** -item_power, 0)
    return np.asarray(matrix**power * by_row[:, None] * by_column[None, :])


def strongest(similar: Dense, keep: int) -> Dense:
    """Return the largest entries of every column and their equals, the diagonal left out."""
    cut = similar.copy()
    np.fill_diagonal(cut, 0)
    for column in cut.T:
        bound = np.sort(column)[::-1][min(keep, len(column)) - 1]
        column[column < bound * (1 - 1e-6)] = 0
    return cut


def projected(matrix: Dense, raw: Dense, dim: int) -> Dense:
    _, _, right = np.linalg.svd(matrix)
    basis = right[: min(dim, *matrix.shape)]
    return np.asarray(matrix @ basis.T @ basis * np.sqrt(raw.sum(axis=0)))


@given(dataset=datasets(max_users=7, max_items=7, dated=False), keep=st.integers(1, 4))
@settings(max_examples=50)
def test_views_are_those_of_dense_matrices(dataset: Dataset, keep: int) -> None:
    data = dataset.training
    weights = {name: 0.5 + place for place, name in enumerate(data.auxiliary)}
    for now in (moment(data, 0, seed=0), present(data)):
        bought = dense(now.purchases)
        mixed = bought + sum(weights[name] * dense(part) for name, part in now.auxiliary.items())
        even, even_bought = divided(mixed, 0.5, 0.5), divided(bought, 0.5, 0.5)
        gentle, roots = divided(mixed, 1 / 3, 1 / 3, 1 / 3), divided(mixed, 0, 0, 1 / 3)
        ends = divided(mixed, 0, 0.1, 1 / 3), divided(bought, 0, 0.1, 1 / 3)
        # All directions: with fewer, equal singular values would leave a choice.
        wanted = {
            "walks": mixed @ strongest(even.T @ even, keep),
            "baskets": bought @ strongest(even_bought.T @ even_bought, keep),
            "leads": mixed @ strongest(even.T @ divided(bought, 0, 0.2), keep),
            "gentle walks": roots @ strongest(gentle.T @ ends[0], keep),
            "gentle leads": roots @ strongest(gentle.T @ ends[1], keep),
            "spectrum": projected(even, mixed, 7),
            "basket spectrum": projected(even_bought, bought, 7),
        }
        seen = bought + sum(dense(part) for part in now.auxiliary.values()) > 0
        preference = Preference(now, weights, neighbors=keep, dim=7, seed=0)
        pools, scores = preference.pools(100)
        reached = sum(wanted[name] for name in PROPOSING) > 1e-9
        pooled = np.zeros(now.shape, dtype=np.bool_)
        pooled[pools.users, pools.items] = True
        assert np.array_equal(pooled, reached & ~seen)
        assert set(scores) == {*wanted, "narrow spectrum", "narrow basket spectrum"}
        for name, values in scores.items():
            if name.startswith("narrow"):
                continue
            found = wanted[name][pools.users, pools.items]
            np.testing.assert_allclose(values, found, rtol=1e-3, atol=1e-4, err_msg=name)
        table = untouched_features(now, pools, scores)
        items = bought.sum(axis=0)[pools.items]
        np.testing.assert_array_equal(table.column("item bought"), items)
        distance = sum(ranks_and_scores(values, pools)[1] for values in scores.values())
        np.testing.assert_allclose(table.column("together"), distance, rtol=1e-4, atol=1e-4)
        for name, part in now.auxiliary.items():
            users = dense(part).sum(axis=0)[pools.items]
            np.testing.assert_array_equal(table.column(f"{name}, users"), users)


def test_a_pool_takes_what_each_view_puts_first() -> None:
    rng = np.random.default_rng(0)
    shape = {"n_users": 50, "n_items": 40}
    view = Interactions.from_pairs(rng.integers(0, 50, 400), rng.integers(0, 40, 400), **shape)
    bought = Interactions.from_pairs(rng.integers(0, 50, 150), rng.integers(0, 40, 150), **shape)
    now = present(make_dataset({"view": view, "purchase": bought}).training)
    preference = Preference(now, {"view": 1.0}, neighbors=40, dim=4, seed=0)
    everything, scores = preference.pools(40)
    small, _ = preference.pools(10)
    assert small.sizes.max() < everything.sizes.max()
    kept = np.isin(everything.keys, small.keys)
    for name in PROPOSING:
        places, _ = ranks_and_scores(scores[name], everything)
        # Five views in turns: two each are certain of a place among ten.
        certain = (places < 2) & (scores[name] > 0)
        assert kept[certain].all()
        # And what no view has among its first ten has none.
    best = np.min([ranks_and_scores(scores[name], everything)[0] for name in PROPOSING], axis=0)
    assert (best[kept] < 10).all()


def test_the_seed_of_the_subspace_moves_nothing_much() -> None:
    rng = np.random.default_rng(1)
    shape = {"n_users": 80, "n_items": 60}
    groups = rng.integers(0, 4, 80)
    users = np.repeat(np.arange(80), 8)
    items = groups[users] * 15 + rng.integers(0, 15, 640)
    bought = Interactions.from_pairs(users, items, **shape)
    view = Interactions.from_pairs(users, items[::-1].copy(), **shape)
    now = present(make_dataset({"view": view, "purchase": bought}).training)
    found = []
    for seed in (0, 1):
        preference = Preference(now, {"view": 0.2}, neighbors=10, dim=4, seed=seed)
        pools, scores = preference.pools(60)
        found.append(scores["basket spectrum"])
    assert np.corrcoef(found[0], found[1])[0, 1] == pytest.approx(1, abs=0.01)
    # Four groups are four directions: within the own group it is high, elsewhere low.
    own = groups[pools.users] == pools.items // 15
    if own.any() and (~own).any():
        assert found[0][own].mean() > 5 * abs(found[0][~own].mean())


def test_narrow_views_have_the_strongest_quarter_of_all_directions() -> None:
    data = tiny_dataset(8, n_users=60, n_items=32, dated=False).training
    weights = dict.fromkeys(data.auxiliary, 1.0)
    now = present(data)
    pairs = Candidates.from_keys(np.arange(60 * 32), now.shape)
    found = Preference(now, weights, neighbors=5, dim=32, seed=0).spectra(pairs)
    bought = dense(now.purchases)
    mixed = bought + sum(dense(part) for part in now.auxiliary.values())
    for name, raw in (("spectrum", mixed), ("basket spectrum", bought)):
        # With all directions the basis is exact, and no two of these are equally strong.
        wanted = projected(divided(raw, 0.5, 0.5), raw, 8)
        values = found[f"narrow {name}"].reshape(60, 32)
        np.testing.assert_allclose(values, wanted, rtol=1e-3, atol=1e-4)
        assert np.abs(found[name].reshape(60, 32) - values).max() > 0.01
