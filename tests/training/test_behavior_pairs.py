from __future__ import annotations

import numpy as np
import pytest
import torch

from funnelrec.common.errors import CapabilityError, ConfigError
from funnelrec.data.dataset import Dataset, TrainingData
from funnelrec.data.interactions import Interactions
from funnelrec.training.behavior_pairs import BehaviorPairs, BehaviorPairSampler


def sampler(data: TrainingData, **changed: int) -> BehaviorPairSampler:
    parts = list(data.interactions.values())
    return BehaviorPairSampler(parts, parts, **{"batch_size": 7, "most": 40, "seed": 2, **changed})


def pairs(batches: list[BehaviorPairs], place: int) -> list[tuple[int, int]]:
    return [
        pair
        for batch in batches
        for pair in zip(
            batch.triples[place].users.tolist(),
            batch.triples[place].positives.tolist(),
            strict=True,
        )
    ]


def test_an_epoch_has_every_pair_once_and_negatives_outside(tiny_dataset: Dataset) -> None:
    data = tiny_dataset.training
    made = sampler(data)
    batches = list(made.epoch(1))
    assert len(batches) == made.n_batches
    users = torch.cat([batch.users for batch in batches]).tolist()
    assert len(users) == len(set(users))
    for place, part in enumerate(data.interactions.values()):
        usable = part.absent_degrees[part.users] > 0
        wanted = list(zip(part.users[usable], part.indices[usable], strict=True))
        assert sorted(pairs(batches, place)) == wanted
        for batch in batches:
            triples = batch.triples[place]
            assert set(triples.users.tolist()) <= set(batch.users.tolist())
            assert not part.contains(triples.users.numpy(), triples.negatives.numpy()).any()


def test_no_more_than_the_most_of_a_user_and_all_alike_often(tiny_dataset: Dataset) -> None:
    data = tiny_dataset.training
    made, views = sampler(data, most=2), data.interactions["view"]
    counts = np.zeros(views.nnz)
    for number in range(200):
        found = pairs(list(made.epoch(number)), 0)
        assert len(set(found)) == len(found)
        users, items = map(np.array, zip(*found, strict=True))
        assert np.bincount(users, minlength=data.n_users).tolist() == [
            min(2, degree) for degree in views.user_degrees
        ]
        np.add.at(counts, views.places(users, items), 1)
    share = counts / 200
    expected = np.minimum(2 / views.user_degrees[views.users], 1)
    # Four standard deviations of a share of 200 draws.
    assert (np.abs(share - expected) <= 4 * np.sqrt(expected * (1 - expected) / 200) + 1e-9).all()


def test_epochs_follow_seed_and_number(tiny_dataset: Dataset) -> None:
    data = tiny_dataset.training

    def drawn(number: int, seed: int = 2) -> list[int]:
        batches = sampler(data, seed=seed).epoch(number)
        return [n for batch in batches for part in batch.triples for n in part.negatives.tolist()]

    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)
    assert drawn(1) != drawn(1, seed=3)


def test_what_cannot_be_used_is_said(tiny_dataset: Dataset) -> None:
    # User 1 bought everything.
    assert sampler(tiny_dataset.training).notes[0].startswith("1 users have every item")
    full = Interactions.from_pairs([0, 0], [0, 1], n_users=1, n_items=2)
    with pytest.raises(CapabilityError, match="no user has both a training pair of the target"):
        BehaviorPairSampler([full], [full], batch_size=1, most=1, seed=0)
    with pytest.raises(ConfigError, match="most must be at least 1, got 0"):
        sampler(tiny_dataset.training, most=0)


def test_batches_move(tiny_dataset: Dataset) -> None:
    batch = next(sampler(tiny_dataset.training).epoch(1)).to(torch.device("meta"))
    parts = [batch.users, *(part.negatives for part in batch.triples)]
    assert {part.device.type for part in parts} == {"meta"}
