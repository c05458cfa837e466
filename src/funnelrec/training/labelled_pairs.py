"""Batches of pairs, touched and untouched, that say of every behavior whether it happened."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from funnelrec.common.random import stream
from funnelrec.data.interactions import Interactions, LongArray
from funnelrec.data.touched import behavior_bits
from funnelrec.training.sampling import NegativeDrawer, check_at_least_one, usable_pairs


@dataclass(frozen=True)
class LabelledPairs:
    """A batch of n pairs with a label for each of B behaviors.

    Parameters
    ----------
    users, items
        int64, shape ``(n,)``.
    labels
        bool, shape ``(B, n)``.
    """

    users: Tensor
    items: Tensor
    labels: Tensor

    def to(self, device: torch.device) -> LabelledPairs:
        """Return the batch on ``device``."""
        return LabelledPairs(self.users.to(device), self.items.to(device), self.labels.to(device))


class LabelledPairSampler:
    """Shuffles the pairs with any behavior and sets untouched items against each.

    Parameters
    ----------
    behaviors
        Pairs of each behavior, B of them, at most 62.
    batch_size
        Pairs per batch, touched and untouched together; at least one touched with its own.
    negatives
        Untouched items per touched one, at least 1, drawn anew each epoch.
    per_epoch
        Touched pairs of an epoch at most, a fresh draw each time; all of them if None.
    seed
        Seed of every draw.

    Raises
    ------
    CapabilityError
        If there is no pair, or no user has an item left to draw.

    Examples
    --------
    >>> view = Interactions.from_pairs([0, 0], [0, 2], n_users=1, n_items=3)
    >>> bought = Interactions.from_pairs([0], [2], n_users=1, n_items=3)
    >>> sampler = LabelledPairSampler([view, bought], batch_size=4, negatives=1, seed=0)
    >>> (batch,) = sampler.epoch(1)
    >>> sorted(zip(batch.items.tolist(), batch.labels.T.tolist()))
    [(0, [True, False]), (1, [False, False]), (1, [False, False]), (2, [True, True])]
    """

    def __init__(
        self,
        behaviors: Sequence[Interactions],
        *,
        batch_size: int,
        negatives: int,
        seed: int,
        per_epoch: int | None = None,
    ) -> None:
        check_at_least_one(
            batch_size=batch_size,
            negatives=negatives,
            per_epoch=1 if per_epoch is None else per_epoch,
        )
        first, *others = behaviors
        seen = first.merged(*others)
        self._drawer = NegativeDrawer(seen)
        usable, self.notes = usable_pairs(seen, self._drawer)
        self._users = seen.users[usable].astype(np.int64)
        self._items = seen.indices[usable].astype(np.int64)
        self._bits = behavior_bits(behaviors, self._users, self._items)
        self._behaviors = len(behaviors)
        self._size = min(self._users.size, per_epoch or self._users.size)
        self._touched = max(1, batch_size // (1 + negatives))
        self._negatives, self._seed = negatives, seed

    @property
    def n_batches(self) -> int:
        """Batches per epoch."""
        return -(-self._size // self._touched)

    def epoch(self, number: int) -> Iterator[LabelledPairs]:
        """Yield the batches of epoch ``number``; every touched pair comes at most once."""
        rng = stream(self._seed, "labelled pairs", number)
        order = rng.permutation(self._users.size)[: self._size]
        for start in range(0, self._size, self._touched):
            part = order[start : start + self._touched]
            users = self._users[part]
            against = np.repeat(users, self._negatives)
            bits = np.zeros(users.size + against.size, dtype=np.int64)
            bits[: users.size] = self._bits[part]
            items = np.concatenate([self._items[part], self._drawer.draw(against, rng)])
            yield LabelledPairs(
                torch.from_numpy(np.concatenate([users, against])),
                torch.from_numpy(items),
                torch.from_numpy(self._labels(bits)),
            )

    def _labels(self, bits: LongArray) -> np.ndarray[tuple[int, int], np.dtype[np.bool_]]:
        places = np.arange(self._behaviors)[:, None]
        return (bits >> places & 1).astype(np.bool_)
