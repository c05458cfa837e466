"""Lists of candidates per user, statistics within a list, and purchases hidden to learn from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from funnelrec.common.random import stream
from funnelrec.data.interactions import Interactions, LongArray

Doubles = npt.NDArray[np.float64]
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Candidates:
    """Some items of every user: n pairs, those of a user together, ascending by item.

    Parameters
    ----------
    indptr
        Where the list of each user begins and ends, int64, shape ``(n_users + 1,)``.
    items
        Dense numbers, int64, shape ``(n,)``.
    n_items
        Size of the catalogue.
    """

    indptr: LongArray
    items: LongArray
    n_items: int

    @classmethod
    def from_keys(cls, keys: LongArray, shape: tuple[int, int]) -> Candidates:
        """Return the pairs of these ascending keys, ``user * n_items + item``."""
        users, items = np.divmod(keys, shape[1])
        sizes = np.bincount(users, minlength=shape[0])
        return cls(np.concatenate([[0], np.cumsum(sizes)]), items, shape[1])

    def __len__(self) -> int:
        return len(self.items)

    @property
    def n_users(self) -> int:
        """Number of users, those with an empty list included."""
        return len(self.indptr) - 1

    @property
    def sizes(self) -> LongArray:
        """Length of every list, int64, shape ``(n_users,)``."""
        return np.diff(self.indptr)

    @property
    def users(self) -> LongArray:
        """User of each pair, int64, shape ``(n,)``."""
        return np.repeat(np.arange(self.n_users, dtype=np.int64), self.sizes)

    @property
    def keys(self) -> LongArray:
        """``user * n_items + item`` of each pair, ascending."""
        return np.asarray(self.users * self.n_items + self.items)

    def are(self, pairs: Interactions) -> npt.NDArray[np.bool_]:
        """Return for each pair whether it is among ``pairs``, shape ``(n,)``."""
        return pairs.contains(self.users, self.items)

    def select(self, keep: npt.NDArray[np.bool_]) -> Candidates:
        """Return the pairs where ``keep`` (shape ``(n,)``) is true."""
        before = np.concatenate([[0], np.cumsum(keep)])
        return Candidates(before[self.indptr], self.items[keep], self.n_items)


def totals(numbers: npt.NDArray[np.integer], values: npt.ArrayLike, size: int) -> Doubles:
    """Return the sum of the values at each number from 0 to ``size - 1``, float64."""
    return np.bincount(numbers, weights=np.asarray(values), minlength=size).astype(np.float64)


def sums_per_list(values: npt.ArrayLike, candidates: Candidates) -> Doubles:
    """Return the sum of ``values`` (shape ``(n,)``) over each list, shape ``(n_users,)``."""
    return totals(candidates.users, values, candidates.n_users)


def ranks_and_scores(
    values: npt.NDArray[np.floating], candidates: Candidates
) -> tuple[Floats, Floats]:
    r"""Return the place of each value in its list, and how far it stands from the list's mean.

    The place is 0 for the largest value and counts the values that are strictly larger, so that
    equal values share a place. The distance is :math:`(x - \bar x) / s` with the list's standard
    deviation s, and 0 in a list of equal values.

    Examples
    --------
    >>> lists = Candidates(np.array([0, 3]), np.array([4, 5, 9]), 10)
    >>> places, distances = ranks_and_scores(np.array([1.0, 3.0, 1.0]), lists)
    >>> places.tolist(), [round(float(value), 2) for value in distances]
    ([1.0, 0.0, 1.0], [-0.71, 1.41, -0.71])
    """
    users = candidates.users
    values = np.asarray(values, dtype=np.float32)
    order = np.argsort(_descending(values, users), kind="stable")
    ordered, owner = values[order], users[order]
    new = np.r_[True, (ordered[1:] != ordered[:-1]) | (owner[1:] != owner[:-1])][: len(order)]
    first = np.maximum.accumulate(np.where(new, np.arange(len(order)), 0))
    places = np.empty(len(order))
    places[order] = first - candidates.indptr[owner]
    values = values.astype(np.float64)
    sizes = np.maximum(candidates.sizes, 1)
    means = sums_per_list(values, candidates) / sizes
    away = values - means[users]
    spread = np.sqrt(sums_per_list(away * away, candidates) / sizes)[users]
    # What is left of equal values after rounding is no distance.
    flat = spread <= 1e-6 * np.maximum(np.abs(means[users]), 1e-12)
    distances = np.where(flat, 0.0, away / np.where(flat, 1.0, spread))
    return places.astype(np.float32), distances.astype(np.float32)


def _descending(values: Floats, users: LongArray) -> npt.NDArray[np.int64]:
    """Return whole numbers that ascend by user and, within one, descend by value."""
    # The bits of a positive float grow with it, those of a negative one against it. One sort of
    # whole numbers takes a tenth of the time of a sort by two keys. Adding 0 makes -0 a 0.
    bits = (0.0 - values).view(np.int32).astype(np.int64)
    ascending = np.where(bits < 0, bits ^ 0x7FFFFFFF, bits)
    return np.asarray((users << 32) + (ascending + 2**31))


def hide(purchases: Interactions, fold: int, *, seed: int) -> tuple[Interactions, Interactions]:
    """Return the purchases with one of each user hidden, and those hidden.

    Every user's purchases are put into a random order, the same for all folds, and fold k hides
    the k-th one; a user with fewer hides none. One purchase a user is what a split holds out, so
    that what is left looks like what training has.

    Parameters
    ----------
    purchases
        Training purchases.
    fold
        k, from 0.
    seed
        Decides the order.
    """
    draws = stream(seed, "hide").random(purchases.nnz)
    order = np.lexsort((draws, purchases.users))
    places = np.empty(purchases.nnz, dtype=np.int64)
    starts = purchases.indptr[purchases.users].astype(np.int64)
    places[order] = np.arange(purchases.nnz)
    hidden = places - starts == fold
    return purchases.select(~hidden), purchases.select(hidden)
