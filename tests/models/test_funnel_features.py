from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from funnelrec.data.dataset import Dataset, TrainingData
from funnelrec.data.interactions import Interactions
from funnelrec.models.funnel.alignment import alignments
from funnelrec.models.funnel.candidates import Candidates, hide, ranks_and_scores
from funnelrec.models.funnel.contexts import PairCounts, context_blocks
from funnelrec.models.funnel.features import Features, TouchedFeatures
from funnelrec.models.funnel.moments import Moment, moment, present
from funnelrec.testing import datasets, make_dataset, tiny_dataset

Dense = npt.NDArray[np.float64]
SMOOTHING = 3.0


def dense(pairs: Interactions) -> Dense:
    matrix = np.zeros(pairs.shape)
    matrix[pairs.users, pairs.items] = 1
    return matrix


def rate(hits: float, trials: float, prior: float, strength: float) -> float:
    return (hits + strength * prior) / (trials + strength)


class Slow:
    """Every feature from dense matrices, one pair at a time."""

    def __init__(self, now: Moment) -> None:
        self.now = now
        self.did = {name: dense(part) for name, part in now.auxiliary.items()}
        self.bought = dense(now.purchases)
        self.touched = np.zeros(now.shape)
        for part in self.did.values():
            self.touched = np.maximum(self.touched, part)
        self.converted = self.touched * self.bought
        self.open = self.touched * (1 - self.bought)
        self.overall = self.converted.sum() / max(self.touched.sum(), 1)
        self.item_rates = np.array(
            [
                rate(self.converted[:, i].sum(), self.touched[:, i].sum(), self.overall, SMOOTHING)
                for i in range(now.shape[1])
            ]
        )

    def pairs(self) -> list[tuple[int, int]]:
        return [(int(u), int(i)) for u, i in zip(*np.nonzero(self.open), strict=True)]

    def near(self, i: int, k: int) -> float:
        both = float(self.touched[:, i] @ self.touched[:, k])
        sizes = max(self.touched[:, i].sum(), 1) * max(self.touched[:, k].sum(), 1)
        return both / math.sqrt(sizes)

    def rates(self, u: int, i: int) -> dict[str, float]:
        found = {}
        same = np.ones(self.now.shape, dtype=bool)
        missed = 1.0
        for name, part in self.did.items():
            share = (part * self.bought).sum() / max(part.sum(), 1)
            item = rate((part * self.bought)[:, i].sum(), part[:, i].sum(), share, SMOOTHING)
            found[f"{name}, item rate"] = item
            found[f"{name}, users"] = part[:, i].sum()
            found[f"{name}, user pairs"] = part[u].sum()
            found[f"{name}, user rate"] = rate(
                (part * self.bought)[u].sum(), part[u].sum(), share, SMOOTHING
            )
            same &= part == part[u, i]
            missed *= 1 - item if part[u, i] else 1
        found["rule"] = 1 - missed
        same &= self.touched > 0
        found["pattern rate"] = (same * self.bought).sum() / same.sum()
        prior = found["pattern rate"] * self.item_rates[i] / max(self.overall, 1e-12)
        found["rate"] = rate((same * self.bought)[:, i].sum(), same[:, i].sum(), prior, SMOOTHING)
        found["item rate"] = self.item_rates[i]
        found["item touched"] = self.touched[:, i].sum()
        found["item bought"] = self.bought[:, i].sum()
        found["buyers touched"] = rate(self.converted[:, i].sum(), self.bought[:, i].sum(), 0.8, 5)
        found["user touched"] = self.touched[u].sum()
        found["user bought"] = self.bought[u].sum()
        found["user open"] = self.open[u].sum()
        found["user rate"] = rate(
            self.converted[u].sum(), self.touched[u].sum(), self.overall, SMOOTHING
        )
        found["user touched first"] = rate(self.converted[u].sum(), self.bought[u].sum(), 0.8, 2)
        taste = rate(
            self.item_rates @ self.bought[u], self.bought[u].sum(), float(self.item_rates.mean()), 2
        )
        found["rate against purchases"] = self.item_rates[i] - taste
        found["rate against touched"] = self.item_rates[i] - (
            self.item_rates @ self.touched[u] / self.touched[u].sum()
        )
        return found

    def contexts(self, u: int, i: int) -> dict[str, float]:
        found = {}
        own = np.flatnonzero(self.bought[u]).tolist()
        near = [self.near(i, k) for k in own]
        found["near purchases"] = sum(near)
        found["nearest purchase"] = max(near, default=0)
        pairs = [float(self.bought[:, i] @ self.bought[:, k]) for k in own]
        close = [
            pair
            / (math.sqrt(max(self.bought[:, i].sum(), 1) * max(self.bought[:, k].sum(), 1)) + 3)
            for pair, k in zip(pairs, own, strict=True)
        ]
        found["bought together"] = sum(close)
        found["most bought together"] = max(close, default=0)
        found["bought given purchases"] = sum(
            pair / self.bought[:, k].sum() for pair, k in zip(pairs, own, strict=True)
        )
        found["alike purchases"] = sum(value > 0.1 for value in near)
        # Users who bought k and either bought i or left it open.
        reached = sum(
            float((self.bought[:, i] + self.open[:, i]) @ self.bought[:, k])
            - float(self.open[:, i] @ (self.bought[:, k] - self.converted[:, k]))
            for k in own
        )
        found["after purchases"] = rate(sum(pairs), reached, self.item_rates[i], 5)
        others = [k for k in np.flatnonzero(self.touched[u]).tolist() if k != i]
        found["beside touched"] = sum(self.near(i, k) for k in others)
        found["nearest touched"] = max((self.near(i, k) for k in others), default=0)
        found["alike touched"] = sum(self.near(i, k) > 0.1 for k in others)
        ahead = sum(self.near(i, k) for k in others if self.item_rates[k] > self.item_rates[i])
        found["outdone"] = ahead / (found["beside touched"] + 1e-3)
        kept = trials = counted = seen = beside = met = net = 0.0
        leads: list[float] = []
        odds: list[float] = []
        alike: list[float] = []
        for k in others:
            wins = float(self.converted[:, i] @ self.open[:, k])
            losses = float(self.converted[:, k] @ self.open[:, i])
            rare = 1 / max(self.touched[:, k].sum(), 1)
            both = float(self.touched[:, i] @ self.touched[:, k])
            after = wins + float(self.bought[:, i] @ self.bought[:, k])
            kept += after * rare
            trials += both * rare
            counted += after
            seen += both
            beside += after / math.sqrt(max(self.bought[:, i].sum(), 1) / rare)
            if self.open[u, k]:
                leads.append(math.log((wins + 0.5) / (losses + 0.5)))
                met += wins + losses
                net += wins - losses
                mine, other = self.item_rates[i], self.item_rates[k]
                odds.append(
                    (wins + 2 * SMOOTHING * mine)
                    / (wins + losses + 2 * SMOOTHING * max(mine + other, 1e-12))
                )
                alike.append(self.near(i, k))
        found["others"] = rate(kept, trials, self.item_rates[i], 0.3)
        found["others, by count"] = rate(counted, seen, self.item_rates[i], 30)
        found["bought beside touched"] = beside
        found["touched with"] = seen / self.touched[:, i].sum()
        found["least preferred"] = min(odds, default=1)
        found["wins"] = sum(leads) / max(len(leads), 1)
        found["net wins"] = net / max(met, 1)
        found["preferred"] = rate(sum(odds), len(odds), 0.5, 1)
        weighted = sum(o * a for o, a in zip(odds, alike, strict=True))
        found["preferred alike"] = rate(weighted, sum(alike), 0.5, 1e-3)
        found["nearest purchase against touched"] = found["near purchases"] / (
            found["beside touched"] + 0.05
        )
        return found


@given(dataset=datasets(max_users=7, max_items=7), budget=st.sampled_from([0, 2**30]))
@settings(max_examples=40)
def test_every_feature_is_that_of_dense_matrices(dataset: Dataset, budget: int) -> None:
    for now in (moment(dataset.training, 0, seed=1), present(dataset.training)):
        made = TouchedFeatures(now, smoothing=SMOOTHING, budget=budget)
        table = made.table()
        slow = Slow(now)
        pairs = slow.pairs()
        found = list(
            zip(made.candidates.users.tolist(), made.candidates.items.tolist(), strict=True)
        )
        assert found == pairs
        for row, (u, i) in enumerate(pairs):
            for name, value in {**slow.rates(u, i), **slow.contexts(u, i)}.items():
                assert table.column(name)[row] == pytest.approx(value, rel=1e-4, abs=1e-5), name


def of_pair(table: Features, candidates: Candidates, user: int, item: int, name: str) -> float:
    place = np.flatnonzero((candidates.users == user) & (candidates.items == item))
    return float(table.column(name)[place[0]])


def test_dates_order_a_list_by_how_long_ago() -> None:
    view = Interactions.from_pairs(
        [0, 0, 0, 1], [0, 1, 2, 0], n_users=2, n_items=3, first=[10, 40, 5, 9], last=[30, 40, 5, 9]
    )
    bought = Interactions.from_pairs([1], [1], n_users=2, n_items=3, first=[50])
    data = make_dataset({"view": view, "purchase": bought}).training
    made = TouchedFeatures(present(data), smoothing=1.0, budget=0)
    table = made.table()
    places = [of_pair(table, made.candidates, 0, item, "age, place") for item in range(3)]
    assert places == [1, 0, 2]
    # Ages 10, 0, 35 and 0; the typical one is the median of those above 0.
    assert of_pair(table, made.candidates, 0, 2, "age") == pytest.approx(math.log1p(35 / 22.5))
    assert of_pair(table, made.candidates, 0, 0, "span") == pytest.approx(math.log1p(20 / 22.5))


def test_undated_data_have_no_dates_among_their_features() -> None:
    data = tiny_dataset(0).training
    table = TouchedFeatures(present(data), smoothing=1.0, budget=0).table()
    assert not [name for name in table.names if "age" in name.split(", ")]


def test_a_hidden_purchase_changes_no_feature_beyond_its_absence() -> None:
    data = tiny_dataset(4, n_users=40, n_items=20).training
    before = moment(data, 0, seed=0)
    without = TrainingData(
        behaviors=data.behaviors,
        target=data.target,
        interactions={**data.interactions, data.target: before.purchases},
        validation=data.validation,
        user_ids=data.user_ids,
        item_ids=data.item_ids,
    )
    hidden, absent = (
        TouchedFeatures(now, smoothing=2.0, budget=0).table().values
        for now in (before, present(without))
    )
    np.testing.assert_array_equal(hidden, absent)


# -- moments ---------------------------------------------------------------------------------


def test_folds_hide_every_purchase_once() -> None:
    purchases = tiny_dataset(2, n_users=30, n_items=18).training.purchases
    most = int(purchases.user_degrees.max())
    hidden = [hide(purchases, fold, seed=3)[1].keys for fold in range(most)]
    assert np.array_equal(np.sort(np.concatenate(hidden)), purchases.keys)
    for fold in range(most):
        kept, gone = hide(purchases, fold, seed=3)
        assert np.array_equal(gone.user_degrees, (purchases.user_degrees > fold).astype(int))
        assert kept.nnz + gone.nnz == purchases.nnz


def test_a_dated_moment_knows_nothing_from_the_hidden_purchase_on() -> None:
    data = tiny_dataset(6, n_users=40, n_items=20, dated=True).training
    for fold in (0, 1):
        now = moment(data, fold, seed=0)
        assert now.hidden.nnz
        assert now.hidden.first is not None
        for user, date in zip(now.hidden.users, now.hidden.first, strict=True):
            for part in (now.purchases, *now.auxiliary.values()):
                assert part.last is not None
                row = slice(part.indptr[user], part.indptr[user + 1])
                if part is now.purchases:
                    assert part.first is not None
                    assert (part.first[row] < date).all()
                else:
                    assert (part.last[row] < date).all()


def test_the_last_purchase_is_hidden_first() -> None:
    view = Interactions.from_pairs(
        [0, 0], [0, 1], n_users=1, n_items=4, first=[1, 30], last=[9, 30]
    )
    bought = Interactions.from_pairs([0, 0], [2, 3], n_users=1, n_items=4, first=[8, 20])
    data = make_dataset({"view": view, "purchase": bought}).training
    last, earlier = moment(data, 0, seed=0), moment(data, 1, seed=0)
    assert last.hidden.indices.tolist() == [3]
    assert last.purchases.indices.tolist() == [2]
    assert last.auxiliary["view"].indices.tolist() == [0]
    assert earlier.hidden.indices.tolist() == [2]
    # The view went on after that purchase, and only its beginning was known.
    found = earlier.auxiliary["view"]
    assert found.last is not None
    assert found.last.tolist() == [1]


# -- lists and contexts ----------------------------------------------------------------------


def test_equal_values_share_a_place() -> None:
    lists = Candidates(np.array([0, 4, 4, 6]), np.array([1, 2, 3, 4, 0, 2]), 5)
    places, distances = ranks_and_scores(np.array([2.0, 5.0, 2.0, 1.0, 7.0, 7.0]), lists)
    assert places.tolist() == [1, 0, 1, 3, 0, 0]
    assert distances[4:].tolist() == [0, 0]
    assert distances[:4].mean() == pytest.approx(0, abs=1e-6)
    assert distances[:4].std() == pytest.approx(1, abs=1e-6)


@given(dataset=datasets(max_users=6, max_items=6), budget=st.integers(1, 20))
def test_blocks_meet_every_item_of_the_context_once(dataset: Dataset, budget: int) -> None:
    data = dataset.training
    candidates = Candidates.from_keys(data.seen.keys, data.shape)
    context = Candidates.from_keys(data.purchases.keys, data.shape)
    sums, largest = np.zeros(len(candidates)), np.zeros(len(candidates))
    for block in context_blocks(candidates, context, budget=budget):
        assert np.array_equal(context.items[block.entries], block.context)
        values = block.items * 100.0 + block.context
        sums[block.place], largest[block.place] = block.sums(values), block.largest(values)
    for row, (user, item) in enumerate(zip(candidates.users, candidates.items, strict=True)):
        met = [item * 100.0 + other for other in data.purchases.row(int(user))]
        assert sums[row] == pytest.approx(sum(met))
        assert largest[row] == max(met, default=0)


@given(dataset=datasets(max_users=6, max_items=6), many_users=st.booleans())
def test_counts_dense_and_sparse_are_those_of_the_product(
    dataset: Dataset, many_users: bool
) -> None:
    data = dataset.training
    left, right = data.seen.matrix(), data.purchases.matrix()
    rows, columns = np.divmod(np.arange(data.n_items**2), data.n_items)
    if many_users:
        # More users than two bytes count.
        empty = sp.csr_array((2**16, data.n_items), dtype=np.float32)
        left, right = (sp.vstack([part, empty], format="csr") for part in (left, right))
    seen, bought = dense(data.seen), dense(data.purchases)
    for budget in (0, 2**20):
        counts = PairCounts((left, right), (right, left), (right, right), budget=budget)
        found = counts.at(rows, columns)
        for one, wanted in zip(
            found, (seen.T @ bought, bought.T @ seen, bought.T @ bought), strict=True
        ):
            assert np.array_equal(one, wanted.ravel())
        assert [one.shape for one in counts.at(rows[:0], rows[:0])] == [(0,)] * 3


# -- adaptive behaviors ----------------------------------------------------------------------


def test_alignment_by_hand() -> None:
    bought = Interactions.from_pairs([0, 0, 1], [0, 1, 1], n_users=3, n_items=3)
    view = Interactions.from_pairs([0, 1, 2], [0, 1, 1], n_users=3, n_items=3)
    found = alignments(make_dataset({"view": view, "purchase": bought}).training)["view"]
    assert found.pairs == 3
    assert found.rate == pytest.approx(2 / 3)
    # Degrees 2 x 1, 1 x 2 and 0 x 2 over 3 purchases, averaged over 3 pairs.
    assert found.chance == pytest.approx((2 + 2 + 0) / 3 / 3)


def test_a_random_behavior_is_silenced_and_a_rare_good_one_heard() -> None:
    rng = np.random.default_rng(0)
    shape = {"n_users": 400, "n_items": 300}
    bought = Interactions.from_pairs(
        np.repeat(np.arange(400), 5), rng.integers(0, 300, 2000), **shape
    )
    random = Interactions.from_pairs(
        rng.integers(0, 400, 4000), rng.integers(0, 300, 4000), **shape
    )
    chosen = rng.random(bought.nnz) < 0.5
    view = Interactions.from_pairs(
        np.r_[bought.users[chosen], random.users[:1500]],
        np.r_[bought.items[chosen], random.items[:1500]],
        **shape,
    )
    rare = bought.select(np.arange(bought.nnz) % 100 == 0)
    data = make_dataset({"random": random, "view": view, "rare": rare, "purchase": bought})
    found = {name: part.weight for name, part in alignments(data.training).items()}
    assert found["random"] == 0
    assert found["rare"] == 1
    assert 0.2 < found["view"] < 0.6
