from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare

from funnelrec.common.errors import CapabilityError, ConfigError
from funnelrec.data.dataset import Dataset
from funnelrec.data.interactions import Interactions
from funnelrec.training.sampling import (
    BehaviorTriples,
    NegativeDrawer,
    PairSampler,
    Triples,
    UserSampler,
)


def matrix(rows: Sequence[Sequence[int]], n_items: int) -> Interactions:
    """Return the items of each user as a matrix."""
    users = np.repeat(np.arange(len(rows)), [len(row) for row in rows])
    items = np.array([item for row in rows for item in row], dtype=np.int64)
    return Interactions.from_pairs(users, items, n_users=len(rows), n_items=n_items)


class Places:
    """Stands in for a generator: gives the places asked for, one per user."""

    def __init__(self, places: npt.ArrayLike) -> None:
        self.places = np.asarray(places)

    def integers(self, low: int, high: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        assert low == 0
        assert (self.places < high).all()
        return self.places


@st.composite
def exclusions(draw: st.DrawFn) -> Interactions:
    n_items = draw(st.integers(1, 9))
    row = st.lists(st.integers(0, n_items - 1), unique=True)
    return matrix(draw(st.lists(row, min_size=1, max_size=6)), n_items)


class TestNegativeDrawer:
    @given(exclusions())
    def test_every_place_is_another_allowed_item(self, excluded: Interactions) -> None:
        # The numbers a generator may give map one to one onto the allowed items, so a uniform
        # number is a uniform item, and no excluded one can ever come.
        drawer = NegativeDrawer(excluded)
        for user in range(excluded.n_users):
            allowed = sorted(set(range(excluded.n_items)) - set(excluded.row(user).tolist()))
            assert drawer.drawable[user] == bool(allowed)
            places = cast(np.random.Generator, Places(np.arange(len(allowed))))
            drawn = drawer.draw(np.full(len(allowed), user), places)
            assert drawn.tolist() == allowed
            assert drawn.dtype == np.int64

    @given(exclusions(), st.integers(0, 100))
    def test_users_of_a_batch_do_not_meddle(self, excluded: Interactions, seed: int) -> None:
        rng = np.random.default_rng(seed)
        users = rng.integers(excluded.n_users, size=50)
        drawer = NegativeDrawer(excluded)
        drawn = drawer.draw(users, rng)
        possible = drawer.drawable[users]
        assert not excluded.contains(users, drawn)[possible].any()
        assert ((drawn >= 0) & (drawn < excluded.n_items)).all()
        assert not drawn[~possible].any()

    def test_allowed_items_come_equally_often(self) -> None:
        excluded = matrix([[0, 3, 4, 9], [], [1]], n_items=10)
        rng = np.random.default_rng(11)
        users = np.tile(np.arange(3), 8000)
        drawn = NegativeDrawer(excluded).draw(users, rng)
        for user, allowed in enumerate((6, 10, 9)):
            counts = np.bincount(drawn[users == user], minlength=10)
            assert not counts[excluded.row(user)].any()
            assert chisquare(counts[counts > 0]).pvalue > 0.01
            assert np.count_nonzero(counts) == allowed

    def test_who_has_everything_ends_at_once(self) -> None:
        drawer = NegativeDrawer(matrix([[0, 1], [0]], n_items=2))
        assert drawer.drawable.tolist() == [False, True]
        assert drawer.draw(np.array([0, 1, 0]), np.random.default_rng(0)).tolist() == [0, 1, 0]

    def test_keys_do_not_overflow_in_a_large_catalogue(self) -> None:
        size = 3_000_000
        excluded = Interactions.from_pairs(
            [size - 1, size - 1], [0, size - 1], n_users=size, n_items=size
        )
        places = cast(np.random.Generator, Places([0, size - 3]))
        drawn = NegativeDrawer(excluded).draw(np.array([size - 1, size - 1]), places)
        assert drawn.tolist() == [1, size - 2]


def joined(batches: Sequence[Triples]) -> npt.NDArray[np.int64]:
    """Return the triples of an epoch, shape (n, 3)."""
    return np.concatenate(
        [torch.stack([b.users, b.positives, b.negatives], dim=1).numpy() for b in batches]
    )


class TestPairSampler:
    def test_every_pair_comes_once_an_epoch_with_an_item_not_bought(
        self, tiny_dataset: Dataset
    ) -> None:
        bought = tiny_dataset.training.purchases
        usable = bought.users != 1
        sampler = PairSampler(bought, batch_size=32, seed=0)
        for number in range(1, 6):
            batches = list(sampler.epoch(number))
            assert [len(batch.users) for batch in batches[:-1]] == [32] * (len(batches) - 1)
            assert 0 < len(batches[-1].users) <= 32
            assert len(batches) == sampler.n_batches
            users, positives, negatives = joined(batches).T
            keys = np.sort(users * bought.n_items + positives)
            assert keys.tolist() == bought.keys[usable].tolist()
            assert not bought.contains(users, negatives).any()

    def test_users_who_bought_everything_are_counted_and_left_out(
        self, tiny_dataset: Dataset
    ) -> None:
        sampler = PairSampler(tiny_dataset.training.purchases, batch_size=1000, seed=0)
        assert sampler.notes[0].startswith("1 users have every item")
        assert 1 not in joined(list(sampler.epoch(1)))[:, 0]

    def test_an_epoch_can_be_drawn_again_and_no_two_are_alike(self, tiny_dataset: Dataset) -> None:
        bought = tiny_dataset.training.purchases

        def epoch(seed: int, number: int, batch_size: int = 16) -> Any:
            sampler = PairSampler(bought, batch_size=batch_size, seed=seed)
            return joined(list(sampler.epoch(number))).tolist()

        sampler = PairSampler(bought, batch_size=16, seed=3)
        list(sampler.epoch(1))
        assert joined(list(sampler.epoch(2))).tolist() == epoch(3, 2)
        assert epoch(3, 2) == epoch(3, 2, batch_size=7)
        for other in (epoch(3, 1), epoch(4, 2)):
            assert other != epoch(3, 2)
            assert sorted(row[:2] for row in other) == sorted(row[:2] for row in epoch(3, 2))

    def test_negatives_are_uniform_over_epochs(self) -> None:
        sampler = PairSampler(matrix([[0, 5], [2]], n_items=8), batch_size=2, seed=5)
        triples = np.concatenate([joined(list(sampler.epoch(number))) for number in range(4000)])
        for user, excluded in enumerate(([0, 5], [2])):
            counts = np.bincount(triples[triples[:, 0] == user, 2], minlength=8)
            assert not counts[excluded].any()
            assert chisquare(np.delete(counts, excluded)).pvalue > 0.01

    def test_a_wider_exclusion_is_kept_and_decides_who_is_drawable(self) -> None:
        positives, excluded = (
            matrix([[0], [1]], n_items=3),
            matrix([[0, 1], [0, 1, 2]], n_items=3),
        )
        sampler = PairSampler(positives, batch_size=4, seed=0, excluded=excluded)
        assert sampler.notes[0].startswith("1 users have every item")
        for number in range(20):
            assert joined(list(sampler.epoch(number))).tolist() == [[0, 0, 2]]

    def test_nothing_to_draw_is_said(self) -> None:
        with pytest.raises(CapabilityError) as caught:
            PairSampler(matrix([[0, 1], []], n_items=2), batch_size=4, seed=0)
        assert str(caught.value) == (
            "there is no training pair with a negative to set against it: "
            "2 pairs, 1 users have every item."
        )

    def test_a_batch_needs_a_size(self) -> None:
        with pytest.raises(ConfigError, match="batch_size must be at least 1, got 0"):
            PairSampler(matrix([[0]], n_items=2), batch_size=0, seed=0)

    def test_batches_are_int64_and_move(self) -> None:
        (batch,) = PairSampler(matrix([[0]], n_items=2), batch_size=4, seed=0).epoch(1)
        assert batch.users.dtype == batch.positives.dtype == batch.negatives.dtype == torch.int64
        assert batch.to(torch.device("meta")).negatives.device.type == "meta"


def stacked(batches: Sequence[BehaviorTriples]) -> dict[str, npt.NDArray[Any]]:
    names = ("users", "positives", "negatives", "present")
    return {
        name: torch.cat([getattr(batch, name) for batch in batches], dim=-1).numpy()
        for name in names
    }


class TestUserSampler:
    def sampler(self, dataset: Dataset, **options: Any) -> UserSampler:
        training = dataset.training
        return UserSampler(
            list(training.interactions.values()),
            options.pop("excluded", training.seen),
            **{"batch_size": 8, "seed": 0, **options},
        )

    def test_every_user_with_a_triple_comes_once(self, tiny_dataset: Dataset) -> None:
        sampler = self.sampler(tiny_dataset)
        # User 0 did nothing and user 1 bought every item.
        expected = list(range(2, 60))
        for number in (1, 2):
            batches = list(sampler.epoch(number))
            assert len(batches) == sampler.n_batches == -(-len(expected) // 8)
            assert sorted(stacked(batches)["users"].tolist()) == expected

    def test_present_says_who_has_what(self, tiny_dataset: Dataset) -> None:
        training = tiny_dataset.training
        drawn = stacked(list(self.sampler(tiny_dataset).epoch(1)))
        for row, part in enumerate(training.interactions.values()):
            has = part.user_degrees[drawn["users"]] > 0
            assert drawn["present"][row].tolist() == has.tolist()
            users, positives = drawn["users"][has], drawn["positives"][row, has]
            assert part.contains(users, positives).all()
            assert not training.seen.contains(users, drawn["negatives"][row, has]).any()
            assert not drawn["positives"][row, ~has].any()
            assert not drawn["negatives"][row, ~has].any()

    def test_users_who_have_every_item_are_never_real_triples(self, tiny_dataset: Dataset) -> None:
        parts = list(tiny_dataset.training.interactions.values())
        # Excluding per behavior leaves user 1 items to draw for its view, none for its purchases.
        sampler = self.sampler(tiny_dataset, excluded=parts)
        drawn = stacked(list(sampler.epoch(1)))
        column = drawn["users"].tolist().index(1)
        assert drawn["present"][:, column].tolist() == [True, False, False]

    def test_exclusion_per_behavior_is_that_behavior_alone(self, tiny_dataset: Dataset) -> None:
        parts = list(tiny_dataset.training.interactions.values())
        sampler = self.sampler(tiny_dataset, excluded=parts)
        inside_another = 0
        for number in range(30):
            drawn = stacked(list(sampler.epoch(number)))
            for row, part in enumerate(parts):
                there = drawn["present"][row]
                users, negatives = drawn["users"][there], drawn["negatives"][row, there]
                assert not part.contains(users, negatives).any()
                seen = tiny_dataset.training.seen.contains(users, negatives)
                inside_another += int(seen.sum())
        assert inside_another > 0

    def test_positives_and_negatives_are_uniform(self) -> None:
        part = matrix([[1, 4, 6], [0]], n_items=9)
        sampler = UserSampler([part], part, batch_size=2, seed=9)
        epochs = [stacked(list(sampler.epoch(number))) for number in range(3000)]
        users = np.concatenate([epoch["users"] for epoch in epochs])
        positives = np.concatenate([epoch["positives"][0] for epoch in epochs])[users == 0]
        negatives = np.concatenate([epoch["negatives"][0] for epoch in epochs])[users == 0]
        assert chisquare(np.bincount(positives)[[1, 4, 6]]).pvalue > 0.01
        assert set(positives.tolist()) == {1, 4, 6}
        counts = np.bincount(negatives, minlength=9)
        assert not counts[[1, 4, 6]].any()
        assert chisquare(np.delete(counts, [1, 4, 6])).pvalue > 0.01

    def test_rounds_repeat_every_user_with_fresh_draws(self, tiny_dataset: Dataset) -> None:
        sampler = self.sampler(tiny_dataset, rounds=3, batch_size=100)
        assert sampler.n_batches == 3
        rounds = [stacked([batch]) for batch in sampler.epoch(1)]
        assert len(rounds) == 3
        by_user = []
        for part in rounds:
            order = np.argsort(part["users"])
            assert part["users"][order].tolist() == list(range(2, 60))
            by_user.append(part["negatives"][:, order].tolist())
        assert by_user[0] != by_user[1]
        assert by_user[1] != by_user[2]
        # One round more does not change the first ones.
        (first,) = self.sampler(tiny_dataset, rounds=1, batch_size=100).epoch(1)
        assert torch.equal(first.negatives, torch.from_numpy(rounds[0]["negatives"]))

    def test_an_epoch_can_be_drawn_again_and_no_two_are_alike(self, tiny_dataset: Dataset) -> None:
        def epoch(seed: int, number: int) -> Any:
            batches = list(self.sampler(tiny_dataset, seed=seed).epoch(number))
            return {name: part.tolist() for name, part in stacked(batches).items()}

        used = self.sampler(tiny_dataset, seed=3)
        list(used.epoch(1))
        again = {name: part.tolist() for name, part in stacked(list(used.epoch(2))).items()}
        assert again == epoch(3, 2)
        for other in (epoch(3, 1), epoch(4, 2)):
            assert other["users"] != epoch(3, 2)["users"]
            assert other["negatives"] != epoch(3, 2)["negatives"]

    def test_no_target_triple_at_all_is_said(self) -> None:
        views, bought = matrix([[0], []], n_items=2), matrix([[], [0, 1]], n_items=2)
        with pytest.raises(CapabilityError) as caught:
            UserSampler([views, bought], bought.merged(views), batch_size=4, seed=0)
        assert str(caught.value) == (
            "no user has both a training pair of the target behavior and an item left to set "
            "against it."
        )

    def test_a_batch_needs_a_size(self) -> None:
        with pytest.raises(ConfigError, match="batch_size must be at least 1, got -1"):
            UserSampler([matrix([[0]], 2)], matrix([[0]], 2), batch_size=-1, seed=0)

    def test_batches_move(self) -> None:
        part = matrix([[0]], n_items=2)
        (batch,) = UserSampler([part, part], part, batch_size=4, seed=0).epoch(1)
        assert batch.positives.shape == batch.present.shape == (2, 1)
        assert batch.present.dtype == torch.bool
        moved = batch.to(torch.device("meta"))
        assert {moved.users.device.type, moved.present.device.type} == {"meta"}


def test_several_negatives_of_a_pair_are_as_one_by_one(tiny_dataset: Dataset) -> None:
    bought = tiny_dataset.training.purchases
    for triples in PairSampler(bought, batch_size=16, seed=3, negatives=6).epoch(1):
        assert triples.negatives.shape == (len(triples.users), 6)
        users = triples.users[:, None].expand(-1, 6).numpy()
        assert not bought.contains(users, triples.negatives.numpy()).any()
        # Drawn one by one, not one a pair.
        assert (triples.negatives != triples.negatives[:, :1]).any()
    with pytest.raises(ConfigError, match="negatives must be at least 1, got 0"):
        PairSampler(bought, batch_size=16, seed=3, negatives=0)
