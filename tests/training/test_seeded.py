from __future__ import annotations

from dataclasses import replace

import torch

from funnelrec.data.dataset import Dataset
from funnelrec.training.sampling import MovableSampler, PairSampler, Sampler, Triples
from funnelrec.training.seeded import Seeded, SeededSampler


def test_seeds_follow_epoch_and_batch_alone(tiny_dataset: Dataset) -> None:
    pairs = PairSampler(tiny_dataset.training.purchases, batch_size=32, seed=4)
    sampler = SeededSampler(pairs, seed=4)
    seeds = [[each.seed for each in sampler.epoch(number)] for number in (1, 2, 1)]
    assert seeds[0] == seeds[2]
    assert len({*seeds[0], *seeds[1]}) == 2 * sampler.n_batches
    assert sampler.n_batches == len(seeds[0])
    assert [each.seed for each in SeededSampler(pairs, seed=5).epoch(1)] != seeds[0]


def test_the_batches_are_those_of_the_other_sampler(tiny_dataset: Dataset) -> None:
    pairs = PairSampler(tiny_dataset.training.purchases, batch_size=32, seed=4)
    sampler = SeededSampler(pairs, seed=9)
    for seeded, plain in zip(sampler.epoch(3), pairs.epoch(3), strict=True):
        assert torch.equal(seeded.batch.negatives, plain.negatives)
    assert sampler.notes == pairs.notes


def test_a_sampler_that_draws_on_a_device_does_so_inside_and_keeps_its_seeds(
    tiny_dataset: Dataset,
) -> None:
    here = torch.device("cpu")
    pairs = PairSampler(tiny_dataset.training.purchases, batch_size=32, seed=4)
    sampler = SeededSampler(pairs, seed=9)
    assert isinstance(sampler, MovableSampler)
    moved = sampler.on(here)
    for seeded, before, inside in zip(
        moved.epoch(3), sampler.epoch(3), pairs.on(here).epoch(3), strict=True
    ):
        assert torch.equal(seeded.batch.negatives, inside.negatives)
        assert torch.equal(seeded.batch.users, inside.users)
        assert seeded.seed == before.seed
    assert (moved.n_batches, moved.notes) == (sampler.n_batches, sampler.notes)
    # The sampler inside draws on the host alone: all that can be moved are its batches.
    still = SeededSampler(sampler_that_stays(pairs), seed=9).on(here)
    for seeded, plain in zip(still.epoch(3), pairs.epoch(3), strict=True):
        assert torch.equal(seeded.batch.negatives, plain.negatives)


def sampler_that_stays(pairs: PairSampler) -> Sampler:
    class Still:
        n_batches, notes, epoch = pairs.n_batches, pairs.notes, pairs.epoch

    made: Sampler = Still()
    assert not isinstance(made, MovableSampler)
    return made


def test_a_batch_moves_with_its_seed() -> None:
    one = torch.tensor([0])
    batch = Seeded(Triples(one, one, one), seed=5)
    moved = batch.to(torch.device("meta"))
    assert moved.batch.users.device.type == "meta"
    assert moved.seed == 5
    draws = [
        torch.rand(4, generator=each.generator(torch.device("cpu")))
        for each in (batch, moved, replace(batch, seed=6))
    ]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
