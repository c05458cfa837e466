"""A sampler that gives the batches of another one candidates and competitors to go with them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from funnelrec.common.errors import CapabilityError
from funnelrec.common.random import stream
from funnelrec.data.dataset import TrainingData
from funnelrec.data.interactions import LongArray
from funnelrec.training.sampling import (
    Batch,
    RowDrawer,
    Sampler,
    Substitutes,
    check_at_least_one,
)


class SubstituteSampler:
    """Adds to each batch one candidate and K competitors for every user that has both.

    The candidate is uniform over what the user touched and did not buy, the competitors are
    uniform over its purchases, with replacement.

    Parameters
    ----------
    sampler
        Draws batches that have ``users`` and a field ``substitutes``.
    data
        Training data.
    seed
        Seed of every draw.
    competitors
        K, at least 1.

    Raises
    ------
    CapabilityError
        If there is no behavior besides the target.
    """

    def __init__(
        self, sampler: Sampler, data: TrainingData, *, seed: int, competitors: int
    ) -> None:
        check_at_least_one(competitors=competitors)
        if not data.auxiliary:
            raise CapabilityError(
                "the substitution penalty is about items that were touched and not bought, and "
                f"this data set has only {data.target!r}; set substitution_weight=0, or add a "
                "behavior."
            )
        touched, bought = data.touched, data.purchases
        self._candidates = RowDrawer(
            touched.select(~bought.contains(touched.users, touched.indices))
        )
        self._purchases = RowDrawer(bought)
        self._sampler = sampler
        self._seed = seed
        self._competitors = competitors
        self.notes = sampler.notes

    @property
    def n_batches(self) -> int:
        """Batches per epoch."""
        return self._sampler.n_batches

    def epoch(self, number: int) -> Iterator[Batch]:
        """Yield the batches of the other sampler, extended."""
        rng = stream(self._seed, "substitutes", number)
        for batch in self._sampler.epoch(number):
            # Any batch with these two fields will do; what else is in it does not matter.
            extended: Any = batch
            yield replace(extended, substitutes=self._draw(extended.users.numpy(), rng))

    def _draw(self, users: LongArray, rng: np.random.Generator) -> Substitutes:
        places = self._candidates.draw(users, rng)
        drawn = self._purchases.draw(np.repeat(users, self._competitors), rng)
        drawn = drawn.reshape(-1, self._competitors)
        both = (places >= 0) & (drawn[:, 0] >= 0)
        return Substitutes(
            torch.from_numpy(users[both]),
            torch.from_numpy(self._candidates.items(places[both])),
            torch.from_numpy(self._purchases.items(drawn[both])),
        )
