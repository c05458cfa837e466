"""Moments to learn from: the log as it stood before a purchase that is known."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from funnelrec.data.dataset import TrainingData
from funnelrec.data.interactions import Interactions, LongArray
from funnelrec.models.funnel.candidates import Candidates, hide


@dataclass(frozen=True, eq=False)
class Moment:
    """What was known at one moment, and the purchase that came next.

    Parameters
    ----------
    auxiliary
        Pairs of each auxiliary behavior that is not silenced.
    purchases
        Purchases known at the moment.
    hidden
        The next purchase of each user, at most one; empty where the moment is now.
    """

    auxiliary: Mapping[str, Interactions]
    purchases: Interactions
    hidden: Interactions

    @property
    def shape(self) -> tuple[int, int]:
        """``(n_users, n_items)``."""
        return self.purchases.shape

    def touched(self) -> Candidates:
        """Return every pair with an auxiliary behavior."""
        parts = [part.keys for part in self.auxiliary.values()]
        keys = np.unique(np.concatenate([np.empty(0, np.int64), *parts]))
        return Candidates.from_keys(keys, self.shape)


def present(data: TrainingData) -> Moment:
    """Return all that training knows; nothing is hidden."""
    nothing = Interactions.empty(data.n_users, data.n_items, dated=data.has_timestamps)
    auxiliary = {name: data.interactions[name] for name in data.auxiliary}
    return Moment(auxiliary, data.purchases, nothing)


def moment(data: TrainingData, fold: int, *, seed: int) -> Moment:
    """Return the moment before one known purchase of each user.

    Without dates, the purchase is the ``fold``-th of the user's in a random order, and everything
    else stays. With dates it is the ``fold``-th from the last, and what came later is taken away:
    purchases from that date on and pairs first touched from then on; of a pair touched before and
    after, what is dated is the first touch.

    Parameters
    ----------
    data
        Training interactions.
    fold
        From 0; a user with fewer purchases hides none, and keeps all.
    seed
        Decides the order where nothing is dated.
    """
    whole = present(data)
    if not data.has_timestamps:
        kept, hidden = hide(data.purchases, fold, seed=seed)
        return replace(whole, purchases=kept, hidden=hidden)
    purchases = data.purchases
    dates = _dates(purchases)
    order = np.lexsort((-purchases.indices, -dates, purchases.users))
    places = np.empty(purchases.nnz, dtype=np.int64)
    places[order] = np.arange(purchases.nnz) - purchases.indptr[purchases.users]
    next_one = places == fold
    end = np.full(data.n_users, np.iinfo(np.int64).max)
    end[purchases.users[next_one]] = dates[next_one]
    return Moment(
        auxiliary={name: _before(part, end) for name, part in whole.auxiliary.items()},
        purchases=purchases.select(dates < end[purchases.users]),
        hidden=purchases.select(next_one),
    )


def _dates(part: Interactions) -> LongArray:
    assert part.first is not None  # noqa: S101 - has_timestamps was asked
    return part.first


def _before(part: Interactions, end: LongArray) -> Interactions:
    first, last = _dates(part), part.last
    assert last is not None  # noqa: S101 - dated
    limit = end[part.users]
    kept = part.select(first < limit)
    crossing = (last >= limit)[first < limit]
    assert kept.first is not None  # noqa: S101 - dated
    assert kept.last is not None  # noqa: S101 - dated
    return replace(
        kept,
        counts=np.where(crossing, 1, kept.counts).astype(np.int32),
        last=np.where(crossing, kept.first, kept.last),
    )
