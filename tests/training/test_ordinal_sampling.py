from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from scipy.stats import chisquare

from funnelrec.common.errors import CapabilityError, ConfigError
from funnelrec.data.dataset import Dataset
from funnelrec.data.interactions import Interactions
from funnelrec.graph.adjacency import Adjacency
from funnelrec.training.ordinal_sampling import OrdinalBatch, OrdinalSampler, TouchSampler

Columns = dict[str, npt.NDArray[Any]]
NAMES = (
    "users",
    "positives",
    "candidates",
    "negatives",
    "has_candidate",
    "behaviors",
    "positive_behaviors",
    "competitors",
    "has_competitor",
)


def sampler(dataset: Dataset, **options: Any) -> OrdinalSampler:
    data = dataset.training
    auxiliary = [data.interactions[name] for name in data.auxiliary]
    return OrdinalSampler(data.purchases, auxiliary, **{"batch_size": 16, "seed": 2, **options})


def joined(batches: list[OrdinalBatch]) -> Columns:
    return {
        name: np.concatenate([getattr(batch, name).numpy() for batch in batches]) for name in NAMES
    }


def epoch(made: OrdinalSampler, number: int = 1) -> Columns:
    return joined(list(made.epoch(number)))


def matrix(rows: list[list[int]], n_items: int) -> Interactions:
    users = np.repeat(np.arange(len(rows)), [len(row) for row in rows])
    items = np.array([item for row in rows for item in row], dtype=np.int64)
    return Interactions.from_pairs(users, items, n_users=len(rows), n_items=n_items)


@pytest.mark.parametrize("negatives", ["unseen", "unbought"])
def test_every_part_comes_from_its_own_set(tiny_dataset: Dataset, negatives: Any) -> None:
    data = tiny_dataset.training
    made = sampler(tiny_dataset, negatives=negatives, candidates=2, competitors=3)
    in_seen = 0
    for number in range(5):
        drawn = epoch(made, number)
        users = drawn["users"]
        beside = np.repeat(users[:, None], 2, axis=1)
        assert data.purchases.contains(users, drawn["positives"]).all()
        there = drawn["has_candidate"]
        # User 2 bought and never touched; others touched more than they bought.
        assert (there == (users != 2)).all()
        assert data.touched.contains(beside[there], drawn["candidates"][there]).all()
        assert not data.purchases.contains(beside[there], drawn["candidates"][there]).any()
        assert not drawn["candidates"][~there].any()
        assert not data.purchases.contains(users, drawn["negatives"]).any()
        in_seen += int(data.seen.contains(users, drawn["negatives"]).sum())
        assert data.purchases.contains(users[:, None], drawn["competitors"]).all()
        kinds = sum(
            data.interactions[name].contains(beside, drawn["candidates"]) * 2**place
            for place, name in enumerate(data.auxiliary)
        )
        assert (drawn["behaviors"] == kinds * there[:, None]).all()
        assert drawn["behaviors"][there].any(axis=1).all()
        for place, name in enumerate(data.auxiliary):
            here = data.interactions[name].contains(users, drawn["positives"])
            assert ((drawn["positive_behaviors"] >> place & 1) == here).all()
    assert (in_seen > 0) == (negatives == "unbought")


def test_an_epoch_takes_every_purchase_once_and_can_be_drawn_again(tiny_dataset: Dataset) -> None:
    data = tiny_dataset.training
    made = sampler(tiny_dataset)
    first, again, other = epoch(made), epoch(sampler(tiny_dataset)), epoch(made, 2)
    keys = first["users"] * data.n_items + first["positives"]
    # User 1 bought everything: nothing is left to set against it.
    expected = data.purchases.keys[data.purchases.users != 1]
    assert sorted(keys.tolist()) == expected.tolist()
    assert made.n_batches == len(list(made.epoch(1))) == -(-len(keys) // 16)
    assert made.notes[0].startswith("1 users have every item")
    for name in NAMES:
        assert (first[name] == again[name]).all()
    assert (first["candidates"] != other["candidates"]).any()
    assert (epoch(sampler(tiny_dataset, seed=3))["users"] != first["users"]).any()


def test_small_data_is_cut_into_the_batches_wanted(tiny_dataset: Dataset) -> None:
    whole = sampler(tiny_dataset, batch_size=1000)
    assert whole.n_batches == 1
    cut = sampler(tiny_dataset, batch_size=1000, least_batches=7)
    batches = list(cut.epoch(1))
    assert len(batches) == cut.n_batches == 7
    keys = [joined(part)["users"].tolist() for part in (batches, list(whole.epoch(1)))]
    assert sorted(keys[0]) == sorted(keys[1])
    # batch_size stays the most a batch may hold.
    assert sampler(tiny_dataset, batch_size=16, least_batches=2).n_batches == -(-len(keys[0]) // 16)


def test_draws_are_uniform() -> None:
    bought, viewed = matrix([[0, 1]], 9), matrix([[1, 3, 4, 6]], 9)
    made = OrdinalSampler(bought, [viewed], batch_size=2, seed=5, competitors=2)
    drawn = [epoch(made, number) for number in range(1500)]
    for name, allowed in (
        ("candidates", [3, 4, 6]),
        ("negatives", [2, 5, 7, 8]),
        ("competitors", [0, 1]),
    ):
        counts = np.bincount(np.concatenate([part[name].ravel() for part in drawn]), minlength=9)
        assert np.flatnonzero(counts).tolist() == allowed
        assert chisquare(counts[allowed]).pvalue > 0.001


def test_permutations_are_of_the_batch_and_fresh(tiny_dataset: Dataset) -> None:
    batches = list(sampler(tiny_dataset).epoch(1))
    orders = [batch.permutation.tolist() for batch in batches]
    for batch, order in zip(batches, orders, strict=True):
        assert sorted(order) == list(range(len(batch.users)))
    assert orders[0] != orders[1]


class TestSplit:
    def test_hidden_purchases_are_the_positives_and_not_in_the_graph(
        self, tiny_dataset: Dataset
    ) -> None:
        data = tiny_dataset.training
        made = sampler(tiny_dataset, own_edge="split", hidden_share=0.3, competitors=2)
        hidden_before: set[int] = set()
        for number in (1, 2):
            batches = list(made.epoch(number))
            assert len(batches) == made.n_batches
            drawn = joined(batches)
            hidden = drawn["users"] * data.n_items + drawn["positives"]
            usable = int((data.purchases.users != 1).sum())
            assert len(hidden) == len(set(hidden.tolist())) == round(0.3 * usable)
            assert hidden_before != set(hidden.tolist())
            hidden_before = set(hidden.tolist())
            visible = data.purchases.select(~np.isin(data.purchases.keys, hidden))
            graph = batches[0].graph
            assert graph is not None
            expected = Adjacency.from_matrix(visible.matrix())
            assert torch.equal(graph.to_users.indices, expected.to_users.indices)
            torch.testing.assert_close(graph.to_users.values, expected.to_users.values)
            has = drawn["has_competitor"]
            assert (has == (visible.user_degrees[drawn["users"]] > 0)).all()
            chosen = visible.contains(drawn["users"][:, None], drawn["competitors"])
            assert chosen[has].all()
            assert not drawn["competitors"][~has].any()
            # A hidden purchase is still no candidate and no negative.
            for name in ("candidates", "negatives"):
                rows = drawn["has_candidate"] if name == "candidates" else slice(None)
                items = drawn[name].reshape(len(hidden), -1)
                assert not data.purchases.contains(drawn["users"][:, None], items)[rows].any()

    def test_users_with_every_item_are_never_hidden(self, tiny_dataset: Dataset) -> None:
        made = sampler(tiny_dataset, own_edge="split", hidden_share=0.9)
        assert not (epoch(made)["users"] == 1).any()

    def test_the_graph_moves_once_an_epoch(self, tiny_dataset: Dataset) -> None:
        batches = list(sampler(tiny_dataset, own_edge="split").epoch(1))
        moved = [batch.to(torch.device("meta")) for batch in batches]
        assert moved[0].graph is not None
        assert moved[0].graph is moved[1].graph
        assert moved[0].graph.to_users.values.device.type == "meta"
        assert {getattr(moved[0], name).device.type for name in NAMES} == {"meta"}

    def test_all_purchases_stay_without_it(self, tiny_dataset: Dataset) -> None:
        assert next(sampler(tiny_dataset).epoch(1)).graph is None


def test_a_single_purchase_without_candidates() -> None:
    one = matrix([[1]], 2)
    for own_edge in ("keep", "split"):
        made = OrdinalSampler(
            one, [one, one], batch_size=4, seed=0, own_edge=own_edge, competitors=2
        )
        drawn = epoch(made)
        assert drawn["negatives"].tolist() == [0]
        assert drawn["has_candidate"].tolist() == [False]
        assert drawn["behaviors"].tolist() == [[0]]
        assert drawn["positive_behaviors"].tolist() == [3]
        assert drawn["has_competitor"].tolist() == [own_edge == "keep"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"candidates": 0}, "candidates must be at least 1, got 0"),
        ({"shared": 0}, "shared must be at least 1, got 0"),
        ({"competitors": 0}, "competitors must be at least 1, got 0"),
        ({"hidden_share": 1.0}, "hidden_share must lie between 0 and 1, got 1.0"),
    ],
)
def test_bad_arguments_are_refused(
    tiny_dataset: Dataset, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        sampler(tiny_dataset, **options)


def test_nothing_to_draw_is_said() -> None:
    with pytest.raises(CapabilityError, match="2 pairs, 1 users have every item"):
        OrdinalSampler(matrix([[0, 1]], 2), [matrix([[0]], 2)], batch_size=1, seed=0)


def test_touches_are_one_item_a_behavior_bought_or_not(tiny_dataset: Dataset) -> None:
    data = tiny_dataset.training
    auxiliary = [data.interactions[name] for name in data.auxiliary]
    made = TouchSampler(data.purchases, auxiliary, batch_size=16, seed=2)
    bought = 0
    for batch in made.epoch(1):
        users = batch.users.numpy()
        for column, part in enumerate(auxiliary):
            there = batch.present[:, column].numpy()
            items = batch.touched[:, column].numpy()
            assert (there == (part.user_degrees[users] > 0)).all()
            assert part.contains(users, items)[there].all()
            assert not items[~there].any()
            bought += int(data.purchases.contains(users, items)[there].sum())
        assert data.purchases.contains(users, batch.positives.numpy()).all()
        assert not data.purchases.contains(users, batch.negatives.numpy()).any()
    assert bought > 0
    first, again = (next(made.epoch(4)).touched for _ in range(2))
    assert torch.equal(first, again)
    assert batch.to(torch.device("meta")).touched.device.type == "meta"


@pytest.mark.parametrize("negatives", ["unseen", "unbought"])
def test_shared_negatives_are_distinct_and_what_was_seen_is_named(
    tiny_dataset: Dataset, negatives: Any
) -> None:
    data = tiny_dataset.training
    excluded = data.seen if negatives == "unseen" else data.purchases
    drawn = np.zeros(data.n_items)
    for number in range(60):
        for batch in sampler(tiny_dataset, shared=6, negatives=negatives).epoch(number):
            assert batch.shared is not None
            assert batch.shared_seen is not None
            items = batch.shared.numpy()
            assert len(set(items.tolist())) == 6
            drawn[items] += 1
            named = np.zeros((len(batch.users), 6), dtype=bool)
            named[tuple(batch.shared_seen.numpy())] = True
            users = batch.users.numpy()
            assert (named == excluded.contains(users[:, None], items[None, :])).all()
    assert chisquare(drawn).pvalue > 1e-3


def test_no_more_negatives_are_shared_than_there_are_items(tiny_dataset: Dataset) -> None:
    batch = next(iter(sampler(tiny_dataset, shared=10**6).epoch(1)))
    assert batch.shared is not None
    assert sorted(batch.shared.tolist()) == list(range(tiny_dataset.training.n_items))
    assert next(iter(sampler(tiny_dataset).epoch(1))).shared is None
