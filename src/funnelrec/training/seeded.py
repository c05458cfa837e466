"""Batches that bring the seed of what a network draws while it computes their loss."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, cast

import torch

from funnelrec.common.random import derived_seed
from funnelrec.training.sampling import Batch, MovableSampler, Sampler

BatchT = TypeVar("BatchT", bound=Batch)


@dataclass(frozen=True)
class Seeded(Generic[BatchT]):
    """A batch and the seed of the noise, dropout or subsample of its loss.

    Parameters
    ----------
    batch
        What another sampler drew.
    seed
        Of this batch alone.

    Examples
    --------
    >>> from funnelrec.training.sampling import Triples
    >>> one = torch.tensor([0])
    >>> batch = Seeded(Triples(one, one, one), seed=3)
    >>> first, again = (batch.generator(torch.device("cpu")) for _ in range(2))
    >>> bool(torch.rand(1, generator=first) == torch.rand(1, generator=again))
    True
    """

    batch: BatchT
    seed: int

    def to(self, device: torch.device) -> Seeded[BatchT]:
        """Return the batch on ``device``."""
        return Seeded(cast(BatchT, self.batch.to(device)), self.seed)

    def generator(self, device: torch.device) -> torch.Generator:
        """Return the source of every draw of this batch's loss, on ``device``."""
        return torch.Generator(device).manual_seed(self.seed)


class SeededSampler:
    """Gives every batch of another sampler a seed of its own.

    The seed depends on epoch and place alone, so a resumed run draws what an uninterrupted one
    draws. Wrap it around all other samplers: it hides what is in a batch.

    Parameters
    ----------
    sampler
        Draws the batches.
    seed
        What their seeds are derived from.
    """

    def __init__(self, sampler: Sampler, *, seed: int) -> None:
        self._sampler, self._seed = sampler, seed

    @property
    def n_batches(self) -> int:
        """Batches per epoch."""
        return self._sampler.n_batches

    @property
    def notes(self) -> tuple[str, ...]:
        """What the sampler leaves out, in sentences."""
        return self._sampler.notes

    def on(self, device: torch.device) -> SeededSampler:
        """Return this sampler around one that draws on ``device``, where there is such a one."""
        inner = self._sampler
        moved = inner.on(device) if isinstance(inner, MovableSampler) else inner
        return SeededSampler(moved, seed=self._seed)

    def epoch(self, number: int) -> Iterator[Seeded[Any]]:
        """Yield the batches of epoch ``number``."""
        for place, batch in enumerate(self._sampler.epoch(number)):
            yield Seeded(batch, derived_seed(self._seed, "noise", number, place))
