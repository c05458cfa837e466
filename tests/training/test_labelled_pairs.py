from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch

from funnelrec.common.errors import CapabilityError, ConfigError
from funnelrec.data.dataset import Dataset
from funnelrec.data.interactions import Interactions
from funnelrec.training.labelled_pairs import LabelledPairs, LabelledPairSampler


def parts(dataset: Dataset) -> list[Interactions]:
    return list(dataset.training.interactions.values())


def pairs(part: Interactions) -> set[tuple[int, int]]:
    return set(zip(part.users.tolist(), part.indices.tolist(), strict=True))


def rows(batches: list[LabelledPairs]) -> list[tuple[int, int, tuple[bool, ...]]]:
    return [
        (user, item, tuple(labels))
        for batch in batches
        for user, item, labels in zip(
            batch.users.tolist(), batch.items.tolist(), batch.labels.T.tolist(), strict=True
        )
    ]


def test_every_touched_pair_comes_once_with_the_truth_and_its_negatives(
    tiny_dataset: Dataset,
) -> None:
    behaviors = parts(tiny_dataset)
    sampler = LabelledPairSampler(behaviors, batch_size=30, negatives=4, seed=3)
    batches = list(sampler.epoch(1))
    assert len(batches) == sampler.n_batches
    assert {len(batch.users) for batch in batches[:-1]} == {30}
    found, sets = rows(batches), [pairs(part) for part in behaviors]
    for user, item, labels in found:
        assert labels == tuple((user, item) in each for each in sets)
    # User 1 has every item, and nothing to set against them.
    seen = {pair for pair in set().union(*sets) if pair[0] != 1}
    touched = Counter((user, item) for user, item, labels in found if any(labels))
    assert touched == Counter(seen)
    untouched = Counter(user for user, _, labels in found if not any(labels))
    assert untouched == {
        user: 4 * number for user, number in Counter(user for user, _ in seen).items()
    }
    assert "1 users have every item" in sampler.notes[0]


def test_negatives_are_uniform_over_what_was_never_touched(tiny_dataset: Dataset) -> None:
    behaviors = parts(tiny_dataset)
    sampler = LabelledPairSampler(behaviors, batch_size=4000, negatives=200, seed=3)
    drawn = Counter(
        item
        for epoch in (1, 2)
        for user, item, labels in rows(list(sampler.epoch(epoch)))
        if user == 10 and not any(labels)
    )
    free = set(range(40)) - {item for part in behaviors for item in part.row(10).tolist()}
    assert set(drawn) == free
    counts = np.array([drawn[item] for item in sorted(free)])
    expected = counts.sum() / len(free)
    # Chi-squared: mean len - 1, standard deviation sqrt(2 (len - 1)).
    statistic = ((counts - expected) ** 2 / expected).sum()
    assert statistic < len(free) - 1 + 5 * np.sqrt(2 * (len(free) - 1))


def test_an_epoch_may_be_a_fresh_share_of_the_pairs(tiny_dataset: Dataset) -> None:
    sampler = LabelledPairSampler(
        parts(tiny_dataset), batch_size=10, negatives=1, seed=3, per_epoch=50
    )
    first, second = (
        {(user, item) for user, item, labels in rows(list(sampler.epoch(e))) if any(labels)}
        for e in (1, 2)
    )
    assert sampler.n_batches == 10
    assert len(first) == len(second) == 50
    assert first != second


def test_an_epoch_depends_on_seed_and_number_alone(tiny_dataset: Dataset) -> None:
    def drawn(seed: int, epoch: int) -> torch.Tensor:
        sampler = LabelledPairSampler(parts(tiny_dataset), batch_size=64, negatives=2, seed=seed)
        list(sampler.epoch(9))
        return torch.cat([batch.items for batch in sampler.epoch(epoch)])

    assert torch.equal(drawn(1, 2), drawn(1, 2))
    assert not torch.equal(drawn(1, 2), drawn(1, 3))
    assert not torch.equal(drawn(1, 2), drawn(2, 2))


def test_mistakes() -> None:
    everything = Interactions.from_pairs([0, 0], [0, 1], n_users=1, n_items=2)
    with pytest.raises(CapabilityError, match="1 users have every item"):
        LabelledPairSampler([everything], batch_size=4, negatives=1, seed=0)
    some = Interactions.from_pairs([0], [0], n_users=1, n_items=2)
    for wrong in ({"batch_size": 0, "negatives": 1}, {"batch_size": 1, "negatives": 0}):
        with pytest.raises(ConfigError, match="must be at least 1, got 0"):
            LabelledPairSampler([some], seed=0, **wrong)
