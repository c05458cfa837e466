from __future__ import annotations

import numpy as np
import torch

from funnelrec.data.dataset import Dataset
from funnelrec.training.pair_behaviors import PairBehaviorSampler


def test_every_pair_comes_once_with_triples_of_its_user(tiny_dataset: Dataset) -> None:
    data = tiny_dataset.training
    parts = list(data.interactions.values())
    sampler = PairBehaviorSampler(parts, parts, batch_size=17, seed=3)
    batches = list(sampler.epoch(1))
    assert len(batches) == sampler.n_batches
    users = torch.cat([batch.users for batch in batches]).numpy()
    positives, negatives, present = (
        torch.cat([getattr(batch, name) for batch in batches], dim=1).numpy()
        for name in ("positives", "negatives", "present")
    )
    # User 1 bought everything: no negative, no pair.
    usable = data.purchases.users != 1
    wanted = zip(data.purchases.users[usable], data.purchases.indices[usable], strict=True)
    assert sorted(zip(users, positives[-1], strict=True)) == sorted(wanted)
    for row, part in enumerate(parts):
        there = present[row]
        assert np.array_equal(there, part.user_degrees[users] > 0)
        assert part.contains(users[there], positives[row, there]).all()
        assert not part.contains(users[there], negatives[row, there]).any()
    assert not present[1].all()
    assert sampler.notes[0].startswith("1 users have every item")


def test_epochs_follow_seed_and_number(tiny_dataset: Dataset) -> None:
    parts = list(tiny_dataset.training.interactions.values())

    def drawn(number: int, seed: int) -> list[int]:
        sampler = PairBehaviorSampler(parts, parts, batch_size=50, seed=seed)
        return torch.cat([batch.positives[0] for batch in sampler.epoch(number)]).tolist()

    assert drawn(1, 3) == drawn(1, 3)
    assert drawn(1, 3) != drawn(2, 3)
    assert drawn(1, 3) != drawn(1, 4)
