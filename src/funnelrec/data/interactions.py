"""One behavior as a user x item matrix in compressed rows, with counts and dates beside it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from funnelrec.common.errors import DataError

IntArray = npt.NDArray[np.int32]
LongArray = npt.NDArray[np.int64]

_INT32_MAX = 2**31 - 1


@dataclass(frozen=True, eq=False)
class Interactions:
    """Distinct (user, item) pairs of one behavior, sorted by user and then by item.

    All arrays are read-only. Users and items are dense numbers from 0.

    Parameters
    ----------
    n_users, n_items
        The shape of the matrix.
    indptr
        int32, shape ``(n_users + 1,)``: row ``u`` holds ``indices[indptr[u]:indptr[u + 1]]``.
    indices
        int32, shape ``(nnz,)``: item numbers, ascending within a row, none twice.
    counts
        int32, shape ``(nnz,)``: events behind each pair (at least 1).
    first, last
        int64, shape ``(nnz,)``: earliest and latest timestamp of each pair, or None if undated.

    Examples
    --------
    >>> clicks = Interactions.from_pairs([1, 0, 1, 1], [2, 0, 0, 2], n_users=2, n_items=3)
    >>> clicks.nnz, clicks.indices.tolist(), clicks.counts.tolist()
    (3, [0, 0, 2], [1, 1, 2])
    """

    n_users: int
    n_items: int
    indptr: IntArray
    indices: IntArray
    counts: IntArray
    first: LongArray | None = None
    last: LongArray | None = None

    def __post_init__(self) -> None:
        for array in (self.indptr, self.indices, self.counts, self.first, self.last):
            if array is not None:
                array.setflags(write=False)

    def __repr__(self) -> str:
        """Return the sizes; the arrays are too long to read."""
        dated = "undated" if self.first is None else "dated"
        return f"Interactions({self.nnz:,} pairs, {self.n_users:,} x {self.n_items:,}, {dated})"

    @classmethod
    def from_pairs(
        cls,
        users: npt.ArrayLike,
        items: npt.ArrayLike,
        *,
        n_users: int,
        n_items: int,
        counts: npt.ArrayLike | None = None,
        first: npt.ArrayLike | None = None,
        last: npt.ArrayLike | None = None,
    ) -> Self:
        """Return the matrix of these pairs; repeated pairs are merged.

        Parameters
        ----------
        users, items
            Dense numbers, shape ``(n,)``, in any order.
        counts, first, last
            Per pair, shape ``(n,)``; counts default to 1. Merging adds counts and keeps the
            earliest ``first`` and the latest ``last``. ``last`` defaults to ``first``.

        Raises
        ------
        DataError
            If a number lies outside the shape, or more than 2**31 - 1 pairs remain.
        """
        users = np.asarray(users, dtype=np.int64).ravel()
        items = np.asarray(items, dtype=np.int64).ravel()
        if users.shape != items.shape:
            raise DataError(f"users and items must pair up, got {users.size} and {items.size}.")
        for name, extra in (("counts", counts), ("first", first), ("last", last)):
            if extra is not None and np.shape(extra) != users.shape:
                raise DataError(
                    f"{name} must have one value per pair ({users.size}), got shape "
                    f"{np.shape(extra)}."
                )
        for name, values, bound in (("user", users, n_users), ("item", items, n_items)):
            if values.size and (values.min() < 0 or values.max() >= bound):
                raise DataError(
                    f"{name} numbers must lie in 0..{bound - 1}, got "
                    f"{values.min()}..{values.max()}."
                )
        keys = users * n_items + items
        order = np.argsort(keys, kind="stable")
        keys = keys[order]
        starts = np.flatnonzero(np.r_[True, keys[1:] != keys[:-1]]) if keys.size else keys
        if starts.size > _INT32_MAX:
            raise DataError(f"one behavior may hold {_INT32_MAX} pairs, got {starts.size}.")
        weights = (
            np.ones(keys.size, np.int64)
            if counts is None
            else np.asarray(counts, dtype=np.int64)[order]
        )
        lo = None if first is None else np.asarray(first, dtype=np.int64)[order]
        hi = lo if last is None else np.asarray(last, dtype=np.int64)[order]
        unique = keys[starts]
        row_sizes = np.bincount(unique // max(n_items, 1), minlength=n_users)
        return cls(
            n_users=n_users,
            n_items=n_items,
            indptr=np.concatenate([[0], np.cumsum(row_sizes)]).astype(np.int32),
            indices=(unique % max(n_items, 1)).astype(np.int32),
            counts=_reduce(np.add, weights, starts).astype(np.int32),
            first=None if lo is None else _reduce(np.minimum, lo, starts),
            last=None if hi is None else _reduce(np.maximum, hi, starts),
        )

    @classmethod
    def empty(cls, n_users: int, n_items: int, *, dated: bool = False) -> Self:
        """Return a matrix without any pair."""
        none = np.empty(0, np.int64)
        dates = none if dated else None
        return cls.from_pairs(none, none, n_users=n_users, n_items=n_items, first=dates)

    @property
    def nnz(self) -> int:
        """Number of distinct pairs."""
        return int(self.indices.size)

    @property
    def shape(self) -> tuple[int, int]:
        """``(n_users, n_items)``."""
        return (self.n_users, self.n_items)

    @cached_property
    def users(self) -> IntArray:
        """User number of each pair, int32, shape ``(nnz,)``."""
        rows = np.repeat(np.arange(self.n_users, dtype=np.int32), self.user_degrees)
        rows.setflags(write=False)
        return rows

    @property
    def items(self) -> IntArray:
        """Item number of each pair, int32, shape ``(nnz,)``."""
        return self.indices

    @cached_property
    def keys(self) -> LongArray:
        """``user * n_items + item`` of each pair, int64, ascending."""
        keys = self.users.astype(np.int64) * self.n_items + self.indices
        keys.setflags(write=False)
        return keys

    @property
    def user_degrees(self) -> IntArray:
        """Pairs per user, int32, shape ``(n_users,)``."""
        return np.diff(self.indptr)

    @cached_property
    def item_degrees(self) -> IntArray:
        """Pairs per item, int32, shape ``(n_items,)``."""
        degrees = np.bincount(self.indices, minlength=self.n_items).astype(np.int32)
        degrees.setflags(write=False)
        return degrees

    def row(self, user: int) -> IntArray:
        """Return the items of one user, ascending."""
        return self.indices[self.indptr[user] : self.indptr[user + 1]]

    def take(self, users: npt.ArrayLike) -> Interactions:
        """Return the rows of the given users, in that order and as often as named.

        Parameters
        ----------
        users
            User numbers, shape ``(n,)``; -1 gives an empty row.

        Returns
        -------
        Interactions
            Of n users and the same items.

        Examples
        --------
        >>> clicks = Interactions.from_pairs([0, 0, 1], [0, 2, 1], n_users=2, n_items=3)
        >>> clicks.take([1, -1, 0]).indices.tolist()
        [1, 0, 2]
        """
        rows = np.asarray(users, dtype=np.int64)
        there = np.maximum(rows, 0)
        starts = self.indptr[there].astype(np.int64)
        sizes = np.where(rows < 0, 0, self.indptr[there + 1] - starts)
        bounds = np.concatenate([[0], np.cumsum(sizes)])
        place = np.arange(bounds[-1]) + np.repeat(starts - bounds[:-1], sizes)
        return Interactions(
            n_users=rows.size,
            n_items=self.n_items,
            indptr=bounds.astype(np.int32),
            indices=self.indices[place],
            counts=self.counts[place],
            first=None if self.first is None else self.first[place],
            last=None if self.last is None else self.last[place],
        )

    def between(self, start: int, stop: int) -> Interactions:
        """Return rows ``start`` to ``stop`` - 1: views of these arrays, nothing is copied.

        Examples
        --------
        >>> clicks = Interactions.from_pairs([0, 0, 1], [0, 2, 1], n_users=2, n_items=3)
        >>> clicks.between(1, 2).indices.tolist()
        [1]
        """
        own = slice(int(self.indptr[start]), int(self.indptr[stop]))
        return Interactions(
            n_users=stop - start,
            n_items=self.n_items,
            indptr=self.indptr[start : stop + 1] - self.indptr[start],
            indices=self.indices[own],
            counts=self.counts[own],
            first=None if self.first is None else self.first[own],
            last=None if self.last is None else self.last[own],
        )

    def contains(self, users: npt.ArrayLike, items: npt.ArrayLike) -> npt.NDArray[np.bool_]:
        """Return for each given pair whether it is here; shape of the inputs."""
        return np.asarray(self.places(users, items) >= 0)

    def places(self, users: npt.ArrayLike, items: npt.ArrayLike) -> LongArray:
        """Return where each given pair stands in ``indices``, int64; -1 where it is not here.

        Examples
        --------
        >>> bought = Interactions.from_pairs([0, 0, 1], [0, 2, 3], n_users=2, n_items=4)
        >>> bought.places([0, 1, 1], [2, 2, 3]).tolist()
        [1, -1, 2]
        """
        wanted = np.asarray(users, dtype=np.int64) * self.n_items + np.asarray(items, np.int64)
        if not self.nnz:
            return np.full(wanted.shape, -1, dtype=np.int64)
        place = np.minimum(np.searchsorted(self.keys, wanted), self.nnz - 1)
        return np.where(self.keys[place] == wanted, place, -1)

    @property
    def absent_degrees(self) -> LongArray:
        """Items that each user does not have, int64, shape ``(n_users,)``."""
        return self.n_items - self.user_degrees.astype(np.int64)

    @cached_property
    def absent_below(self) -> LongArray:
        """How many absent pairs come before each pair, int64, shape ``(nnz,)``, ascending."""
        return _absent_below(self.keys)

    @property
    def absent_before(self) -> LongArray:
        """How many absent pairs earlier users have, int64, shape ``(n_users,)``."""
        return np.arange(self.n_users, dtype=np.int64) * self.n_items - self.indptr[:-1]

    def absent_items(self, users: npt.ArrayLike, ranks: npt.ArrayLike) -> LongArray:
        """Return for each user the item of this rank among those the user does not have.

        Exact, vectorised and without rejection: a uniform rank gives a uniform absent item. Takes
        one binary search per answer.

        Parameters
        ----------
        users
            User numbers.
        ranks
            From 0, below ``absent_degrees[users]``; what is beyond answers with a number that is
            no absent item of this user. Broadcast with ``users``.

        Returns
        -------
        int64, of the broadcast shape.

        Examples
        --------
        >>> bought = Interactions.from_pairs([0, 0, 1], [0, 2, 3], n_users=2, n_items=4)
        >>> bought.absent_items([0, 0, 1], [0, 1, 2]).tolist()
        [1, 3, 2]
        """
        # Both in int64 before anything is added: numpy 1 lets the narrower type decide.
        user = np.asarray(users).astype(np.int64)
        rank = np.asarray(ranks).astype(np.int64)
        start = user * self.n_items
        # Among all pairs, the absent ones of earlier users come first.
        earlier = start - self.indptr[user]
        return np.asarray(_absent_at(self.absent_below, earlier + rank) - start)

    def matrix(self) -> sp.csr_array:
        """Return the binary matrix, float32 ones with int32 indices."""
        ones = np.ones(self.nnz, dtype=np.float32)
        return sp.csr_array((ones, self.indices, self.indptr), shape=self.shape)

    def select(self, keep: npt.NDArray[np.bool_]) -> Interactions:
        """Return the pairs where ``keep`` (bool, shape ``(nnz,)``) is true."""
        kept_before = np.concatenate([[0], np.cumsum(keep)])
        return Interactions(
            n_users=self.n_users,
            n_items=self.n_items,
            indptr=kept_before[self.indptr].astype(np.int32),
            indices=self.indices[keep],
            counts=self.counts[keep],
            first=None if self.first is None else self.first[keep],
            last=None if self.last is None else self.last[keep],
        )

    def merged(self, *others: Interactions) -> Interactions:
        """Return the union with ``others``: counts add up, dates widen.

        Dates survive only if every part has them.
        """
        parts = (self, *others)
        dated = all(part.first is not None and part.last is not None for part in parts)
        return Interactions.from_pairs(
            np.concatenate([part.users for part in parts]),
            np.concatenate([part.indices for part in parts]),
            n_users=self.n_users,
            n_items=self.n_items,
            counts=np.concatenate([part.counts for part in parts]),
            first=np.concatenate([p.first for p in parts if p.first is not None])
            if dated
            else None,
            last=np.concatenate([p.last for p in parts if p.last is not None]) if dated else None,
        )


def absent_keys(taken: LongArray, ranks: npt.ArrayLike) -> LongArray:
    """Return the numbers of these ranks among the non-negative numbers that are not taken.

    Parameters
    ----------
    taken
        int64, ascending, distinct, such as :attr:`Interactions.keys`.
    ranks
        From 0, any shape.

    Examples
    --------
    >>> absent_keys(np.array([0, 2, 3]), np.array([0, 1, 2])).tolist()
    [1, 4, 5]
    """
    return _absent_at(_absent_below(taken), np.asarray(ranks).astype(np.int64))


def _absent_below(taken: LongArray) -> LongArray:
    # Below the j-th taken number a_j lie a_j - j absent ones.
    below = taken.astype(np.int64) - np.arange(taken.size, dtype=np.int64)
    below.setflags(write=False)
    return below


def _absent_at(below: LongArray, ranks: LongArray) -> LongArray:
    # A rank skips every taken number that has at most that many absent ones below it.
    return ranks + np.searchsorted(below, ranks, side="right")


def _reduce(ufunc: np.ufunc, values: LongArray, starts: npt.NDArray[np.intp]) -> LongArray:
    # reduceat has no notion of an empty input.
    return np.asarray(ufunc.reduceat(values, starts)) if values.size else values
