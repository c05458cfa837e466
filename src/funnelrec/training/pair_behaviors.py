"""Target pairs, each with one more triple of its user for every other behavior."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from funnelrec.common.random import stream
from funnelrec.data.interactions import Interactions
from funnelrec.training.sampling import (
    BehaviorTriples,
    NegativeDrawer,
    RowDrawer,
    check_at_least_one,
    usable_pairs,
)


class PairBehaviorSampler:
    """Shuffles the target pairs and sets beside each one a triple per auxiliary behavior.

    Compare :class:`funnelrec.training.sampling.UserSampler`, whose rows are users.

    Parameters
    ----------
    behaviors
        Positive pairs per behavior, B of them, the target last.
    excluded
        Pairs never drawn as negatives, one set per behavior.
    batch_size
        Target pairs per batch, at least 1.
    seed
        Seed of every draw.

    Raises
    ------
    CapabilityError
        If there is no target pair whose user has an item left to draw.

    Examples
    --------
    >>> viewed = Interactions.from_pairs([0], [1], n_users=2, n_items=3)
    >>> bought = Interactions.from_pairs([0, 1], [0, 2], n_users=2, n_items=3)
    >>> parts = [viewed, bought]
    >>> (batch,) = PairBehaviorSampler(parts, parts, batch_size=2, seed=0).epoch(1)
    >>> sorted(zip(batch.users.tolist(), batch.positives[0].tolist(), batch.present[0].tolist()))
    [(0, 1, True), (1, 0, False)]
    """

    def __init__(
        self,
        behaviors: Sequence[Interactions],
        excluded: Sequence[Interactions],
        *,
        batch_size: int,
        seed: int,
    ) -> None:
        check_at_least_one(batch_size=batch_size)
        target = behaviors[-1]
        self._negatives = [NegativeDrawer(part) for part in excluded]
        self._positives = [RowDrawer(part) for part in behaviors[:-1]]
        usable, self.notes = usable_pairs(target, self._negatives[-1])
        self._users = target.users[usable].astype(np.int64)
        self._items = target.indices[usable].astype(np.int64)
        self._batch_size, self._seed = batch_size, seed

    @property
    def n_batches(self) -> int:
        """Batches per epoch."""
        return -(-self._users.size // self._batch_size)

    def epoch(self, number: int) -> Iterator[BehaviorTriples]:
        """Yield the batches of epoch ``number``; every target pair comes once."""
        rng = stream(self._seed, "pairs of behaviors", number)
        order = rng.permutation(self._users.size)
        users = self._users[order]
        shape = (len(self._negatives), users.size)
        positives, negatives = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
        present = np.ones(shape, np.bool_)
        positives[-1] = self._items[order]
        for row, drawer in enumerate(self._negatives):
            negatives[row] = drawer.draw(users, rng)
            if row < len(self._positives):
                places = self._positives[row].draw(users, rng)
                positives[row] = self._positives[row].items(places)
                present[row] = (places >= 0) & drawer.drawable[users]
        for start in range(0, users.size, self._batch_size):
            part = slice(start, start + self._batch_size)
            yield BehaviorTriples(
                torch.from_numpy(users[part]),
                torch.from_numpy(positives[:, part]),
                torch.from_numpy(negatives[:, part]),
                torch.from_numpy(present[:, part]),
            )
