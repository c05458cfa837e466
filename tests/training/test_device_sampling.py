"""Draws on a device; a CPU is a device, too, so the rules are tested wherever the tests run."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare

from funnelrec.data.dataset import Dataset
from funnelrec.data.interactions import Interactions
from funnelrec.training.device_sampling import DeviceDraws, DeviceNegatives, DeviceRows
from funnelrec.training.sampling import MovableSampler, PairSampler, UserSampler

HERE = torch.device("cpu")


def draws(*purpose: str | int) -> DeviceDraws:
    return DeviceDraws(HERE, 3, *purpose)


def pairs_of(seed: int, n_users: int, n_items: int) -> Interactions:
    rng = np.random.default_rng(seed)
    users, items = np.nonzero(rng.random((n_users, n_items)) < rng.random((n_users, 1)))
    return Interactions.from_pairs(users, items, n_users=n_users, n_items=n_items)


@given(st.integers(0, 1000), st.integers(1, 6), st.integers(1, 9))
def test_negatives_are_never_excluded_and_rows_always_owned(
    seed: int, n_users: int, n_items: int
) -> None:
    pairs = pairs_of(seed, n_users, n_items)
    users = np.repeat(np.arange(n_users), 30)
    where = torch.from_numpy(users)
    drawn = DeviceNegatives(pairs, HERE).draw(where, draws("negatives", seed)).numpy()
    possible = pairs.absent_degrees[users] > 0
    assert not pairs.contains(users, drawn)[possible].any()
    assert ((drawn >= 0) & (drawn < n_items)).all()
    assert not drawn[~possible].any()
    owned = DeviceRows(pairs, HERE).draw(where, draws("rows", seed)).numpy()
    has = pairs.user_degrees[users] > 0
    assert pairs.contains(users[has], owned[has]).all()


def test_every_item_that_may_come_comes_equally_often() -> None:
    pairs = Interactions.from_pairs([0, 0, 0, 2], [0, 3, 9, 1], n_users=3, n_items=10)
    users = np.tile(np.arange(3), 8000)
    where = torch.from_numpy(users)
    drawn = DeviceNegatives(pairs, HERE).draw(where, draws("negatives")).numpy()
    owned = DeviceRows(pairs, HERE).draw(where, draws("rows")).numpy()
    for user, allowed in enumerate((7, 10, 9)):
        counts = np.bincount(drawn[users == user], minlength=10)
        assert np.count_nonzero(counts) == allowed
        assert chisquare(counts[counts > 0]).pvalue > 0.01
    assert chisquare(np.bincount(owned[users == 0], minlength=10)[[0, 3, 9]]).pvalue > 0.01


def test_keys_do_not_overflow_in_a_large_catalogue() -> None:
    size = 3_000_000
    pairs = Interactions.from_pairs([size - 1] * 2, [0, size - 1], n_users=size, n_items=size)
    where = torch.full((1000,), size - 1)
    drawn = DeviceNegatives(pairs, HERE).draw(where, draws())
    assert bool(((drawn > 0) & (drawn < size - 1)).all())
    assert drawn.float().std() > size / 5


def test_bounds_are_never_reached() -> None:
    bounds = torch.tensor([1, 2, 2**31 - 1]).repeat(1000)
    drawn = draws().below(bounds)
    assert bool(((drawn >= 0) & (drawn < bounds)).all())
    assert set(drawn[1::3].tolist()) == {0, 1}


def test_pairs_of_an_epoch_come_once_with_items_not_bought(tiny_dataset: Dataset) -> None:
    bought = tiny_dataset.training.purchases
    host = PairSampler(bought, batch_size=32, seed=0)
    sampler = host.on(HERE)
    batches = list(sampler.epoch(1))
    assert len(batches) == sampler.n_batches == host.n_batches
    assert sampler.notes == host.notes
    assert [len(batch.users) for batch in batches[:-1]] == [32] * (len(batches) - 1)
    users, items, negatives = (
        torch.cat([getattr(batch, name) for batch in batches]).numpy()
        for name in ("users", "positives", "negatives")
    )
    assert users.dtype == items.dtype == negatives.dtype == np.int64
    assert sorted(users * bought.n_items + items) == sorted(
        host.users * bought.n_items + host.items
    )
    assert not bought.contains(users, negatives).any()
    again, later = (list(sampler.epoch(number)) for number in (1, 2))
    assert all(
        torch.equal(one.negatives, other.negatives)
        for one, other in zip(batches, again, strict=True)
    )
    assert not torch.equal(batches[0].users, later[0].users)


def test_users_of_an_epoch_come_once_a_round_with_what_they_have(tiny_dataset: Dataset) -> None:
    data = tiny_dataset.training
    parts = [data.interactions[name] for name in (*data.auxiliary, data.target)]
    host = UserSampler(parts, data.seen, batch_size=16, seed=0, rounds=2)
    sampler = host.on(HERE)
    batches = list(sampler.epoch(1))
    assert len(batches) == sampler.n_batches == host.n_batches
    users = torch.cat([batch.users for batch in batches]).numpy()
    once = np.sort(users[: len(users) // 2])
    assert np.array_equal(once, np.sort(users[len(users) // 2 :]))
    assert np.array_equal(once, host.users)
    for row, part in enumerate(parts):
        positives, negatives, present = (
            torch.cat([getattr(batch, name)[row] for batch in batches]).numpy()
            for name in ("positives", "negatives", "present")
        )
        assert np.array_equal(present, host.present[row][users])
        assert part.contains(users[present], positives[present]).all()
        assert not data.seen.contains(users[present], negatives[present]).any()
        assert not positives[~present].any()
        assert not negatives[~present].any()


def test_the_samplers_say_that_they_can_move(tiny_dataset: Dataset) -> None:
    sampler = PairSampler(tiny_dataset.training.purchases, batch_size=8, seed=0)
    assert isinstance(sampler, MovableSampler)
    assert not isinstance(sampler.on(HERE), MovableSampler)
