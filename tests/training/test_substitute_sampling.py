from __future__ import annotations

import numpy as np
import pytest
import torch

from funnelrec.common.errors import CapabilityError, ConfigError
from funnelrec.data.dataset import Dataset
from funnelrec.training.sampling import PairSampler, Triples
from funnelrec.training.substitute_sampling import SubstituteSampler


def pairs(dataset: Dataset) -> PairSampler:
    return PairSampler(dataset.training.purchases, batch_size=16, seed=4)


def sampler(dataset: Dataset, seed: int = 4) -> SubstituteSampler:
    return SubstituteSampler(pairs(dataset), dataset.training, seed=seed, competitors=3)


def test_batches_are_those_of_the_other_sampler_with_substitutes(tiny_dataset: Dataset) -> None:
    data, made = tiny_dataset.training, sampler(tiny_dataset)
    assert (made.n_batches, made.notes) == (pairs(tiny_dataset).n_batches, made.notes)
    for batch, plain in zip(made.epoch(1), pairs(tiny_dataset).epoch(1), strict=True):
        assert isinstance(batch, Triples)
        for name in ("users", "positives", "negatives"):
            assert torch.equal(getattr(batch, name), getattr(plain, name))
        found = batch.substitutes
        assert found is not None
        users, candidates = found.users.numpy(), found.candidates.numpy()
        # User 2 never touched anything.
        assert users.tolist() == [user for user in batch.users.tolist() if user != 2]
        assert data.touched.contains(users, candidates).all()
        assert not data.purchases.contains(users, candidates).any()
        assert found.competitors.shape == (len(users), 3)
        assert data.purchases.contains(users[:, None], found.competitors.numpy()).all()


def test_an_epoch_can_be_drawn_again_and_no_two_are_alike(tiny_dataset: Dataset) -> None:
    def drawn(seed: int, number: int) -> list[int]:
        parts = [batch.substitutes for batch in sampler(tiny_dataset, seed).epoch(number)]  # type: ignore[attr-defined]  # fmt: skip
        return np.concatenate([part.candidates.numpy() for part in parts]).tolist()  # type: ignore[no-any-return]  # fmt: skip

    assert drawn(1, 1) == drawn(1, 1)
    assert drawn(1, 1) != drawn(1, 2)
    assert drawn(1, 1) != drawn(2, 1)


def test_what_it_cannot_do_is_refused(tiny_dataset: Dataset) -> None:
    alone = tiny_dataset.training.without("view", "cart")
    with pytest.raises(CapabilityError, match="this data set has only 'purchase'; set substitu"):
        SubstituteSampler(pairs(tiny_dataset), alone, seed=0, competitors=1)
    with pytest.raises(ConfigError, match="competitors must be at least 1, got 0"):
        SubstituteSampler(pairs(tiny_dataset), tiny_dataset.training, seed=0, competitors=0)


def test_batches_move(tiny_dataset: Dataset) -> None:
    batch = next(iter(sampler(tiny_dataset).epoch(1))).to(torch.device("meta"))
    assert isinstance(batch, Triples)
    assert batch.substitutes is not None
    assert batch.substitutes.competitors.device.type == "meta"
