"""Batches of users with several positives of every behavior, each set against a negative."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from funnelrec.common.random import stream
from funnelrec.data.interactions import Interactions, LongArray
from funnelrec.training.sampling import (
    NegativeDrawer,
    Substitutes,
    Triples,
    check_at_least_one,
    check_rankable,
    left_out,
)


@dataclass(frozen=True)
class BehaviorPairs:
    """A batch of users and, for every behavior, triples of these users.

    Parameters
    ----------
    users
        int64, shape ``(n,)``, distinct.
    triples
        One :class:`Triples` per behavior, each of a length of its own, possibly 0.
    substitutes
        Of these users, where a sampler adds them.
    """

    users: Tensor
    triples: tuple[Triples, ...]
    substitutes: Substitutes | None = field(default=None, kw_only=True)

    def to(self, device: torch.device) -> BehaviorPairs:
        """Return the batch on ``device``."""
        return BehaviorPairs(
            self.users.to(device),
            tuple(part.to(device) for part in self.triples),
            substitutes=None if self.substitutes is None else self.substitutes.to(device),
        )


class BehaviorPairSampler:
    """Shuffles users and gives each one some of its positives in every behavior.

    A user with more positives than ``most`` gets that many of them, drawn without replacement and
    anew each epoch; every positive gets one negative. Compare
    :class:`funnelrec.training.sampling.UserSampler`, which draws one positive per behavior.

    Parameters
    ----------
    behaviors
        Positive pairs per behavior, B of them, the target last.
    excluded
        Pairs never drawn as negatives: one set per behavior.
    batch_size
        Users per batch, at least 1.
    most
        Positives of a user and behavior in an epoch, at least 1.
    seed
        Seed of every draw.

    Raises
    ------
    CapabilityError
        If no user has a positive of the last behavior and an item left to draw.

    Examples
    --------
    >>> bought = Interactions.from_pairs([0, 0, 1], [0, 2, 3], n_users=2, n_items=4)
    >>> sampler = BehaviorPairSampler([bought], [bought], batch_size=2, most=5, seed=0)
    >>> (batch,) = sampler.epoch(1)
    >>> sorted(zip(batch.triples[0].users.tolist(), batch.triples[0].positives.tolist()))
    [(0, 0), (0, 2), (1, 3)]
    """

    def __init__(
        self,
        behaviors: Sequence[Interactions],
        excluded: Sequence[Interactions],
        *,
        batch_size: int,
        most: int,
        seed: int,
    ) -> None:
        check_at_least_one(batch_size=batch_size, most=most)
        drawers = {id(part): NegativeDrawer(part) for part in excluded}
        self._drawers = [drawers[id(part)] for part in excluded]
        usable = [
            part.select(drawer.drawable[part.users])
            for part, drawer in zip(behaviors, self._drawers, strict=True)
        ]
        self._behaviors = usable
        has = np.stack([part.user_degrees > 0 for part in behaviors])
        kept = np.stack([part.user_degrees > 0 for part in usable])
        self.notes = left_out(int(np.count_nonzero((has & ~kept).any(axis=0))))
        check_rankable(kept[-1])
        # A user without any triple would only add constants.
        self._users = np.flatnonzero(kept.any(axis=0))
        self._batch_size, self._most, self._seed = batch_size, most, seed

    @property
    def n_batches(self) -> int:
        """Batches per epoch."""
        return -(-self._users.size // self._batch_size)

    def epoch(self, number: int) -> Iterator[BehaviorPairs]:
        """Yield the batches of epoch ``number``; every user comes once."""
        rng = stream(self._seed, "behavior pairs", number)
        users = rng.permutation(self._users)
        drawn = [
            self._draw(part, drawer, users, rng)
            for part, drawer in zip(self._behaviors, self._drawers, strict=True)
        ]
        for start in range(0, users.size, self._batch_size):
            stop = min(start + self._batch_size, users.size)
            yield BehaviorPairs(
                torch.from_numpy(users[start:stop]),
                tuple(
                    Triples(*(torch.from_numpy(a[bounds[start] : bounds[stop]]) for a in arrays))
                    for bounds, arrays in drawn
                ),
            )

    def _draw(
        self,
        part: Interactions,
        drawer: NegativeDrawer,
        users: LongArray,
        rng: np.random.Generator,
    ) -> tuple[LongArray, tuple[LongArray, LongArray, LongArray]]:
        """Return where each user's triples begin, and users, positives and negatives."""
        rows = part.take(users)
        degrees = rows.user_degrees
        kept = np.ones(rows.nnz, dtype=np.bool_)
        if (degrees > self._most).any():
            # In each row, the pairs of the smallest of random keys.
            order = np.lexsort((rng.random(rows.nnz), rows.users))
            place = np.arange(rows.nnz) - rows.indptr[rows.users]
            kept[order] = place < self._most
        chosen = rows.select(kept)
        of = users[chosen.users]
        positives = chosen.indices.astype(np.int64)
        return chosen.indptr.astype(np.int64), (of, positives, drawer.draw(of, rng))
