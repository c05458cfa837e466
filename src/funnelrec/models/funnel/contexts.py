"""What a candidate is to the other items of its user: counts over pairs of items, in blocks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from funnelrec.data.interactions import LongArray
from funnelrec.graph.neighbors import products, write_product
from funnelrec.models.funnel.candidates import Candidates, Doubles, Floats

BLOCK = 2**17
"""Entries (candidate and item of the context) that a thread holds at one time."""

SIDE_BY_SIDE = 4
"""Counts kept of one pair of items: four of two bytes are one number of eight."""


def kept_densely(n_users: int, n_items: int, budget: int) -> np.dtype[Any] | None:
    """Return the type of a dense count, None where counts are kept in compressed rows.

    >>> kept_densely(40_000, 12_000, 2**30), kept_densely(40_000, 17_000, 2**30)
    (dtype('uint16'), None)
    """
    if 4 * n_items**2 > budget:
        return None
    # No count exceeds the number of users, so most logs need two bytes for each.
    return np.dtype(np.uint16 if n_users <= np.iinfo(np.uint16).max else np.float32)


class PairCounts:
    r"""How many users have item i in one matrix and item j in another: :math:`A^T B`, of several.

    Kept dense where a square of the items in float32 stays within ``budget`` bytes, the counts of
    a pair side by side, so that one look into memory finds them all; in compressed rows elsewhere.
    Counts are the same either way.

    Parameters
    ----------
    pairs
        A and B of each count, shape ``(n_users, n_items)``, entries above 0; at most four.
    budget
        Bytes that one dense matrix may take.
    """

    def __init__(self, *pairs: tuple[sp.csr_array, sp.csr_array], budget: int) -> None:
        self.n_items = int(pairs[0][0].shape[1])
        self._counts = len(pairs)
        self._dense: npt.NDArray[Any] | None = None
        self._rows: list[sp.csr_array] = []
        kept = kept_densely(int(pairs[0][0].shape[0]), self.n_items, budget)
        if kept is not None:
            self._kept = kept
            dense = np.zeros((self.n_items, self.n_items, SIDE_BY_SIDE), dtype=kept)
            for place, (left, right) in enumerate(pairs):
                write_product(left.T.tocsr(), right, dense[:, :, place])
            # The counts of a pair as one number: gathered in one piece.
            self._dense = dense.reshape(-1).view(np.uint64 if kept.itemsize == 2 else np.complex128)
        else:
            for left, right in pairs:
                blocks = products(left.T.tocsr(), right, lambda _, product: product)
                rows = sp.vstack(blocks, format="csr")
                rows.sort_indices()
                self._rows.append(
                    sp.csr_array(
                        (rows.data.astype(np.float32), rows.indices, rows.indptr),
                        shape=rows.shape,
                    )
                )

    def at(self, rows: LongArray, columns: LongArray) -> tuple[Floats, ...]:
        """Return the counts of these pairs of items, float32, shape ``(n,)``, one array each."""
        if self._dense is not None:
            found = self._dense[rows * self.n_items + columns].view(self._kept)
            return tuple(
                found[place::SIDE_BY_SIDE].astype(np.float32) for place in range(self._counts)
            )
        if not len(rows):
            return (np.empty(0, dtype=np.float32),) * self._counts
        return tuple(
            np.asarray(part[rows, columns], dtype=np.float32).ravel() for part in self._rows
        )


@dataclass(frozen=True, eq=False)
class ContextBlock:
    """Every item of the context of some candidates, e entries in all.

    Parameters
    ----------
    place
        The candidates of this block, a slice into the list of all.
    starts
        Where the entries of each candidate begin, ascending, int64; candidates without any are
        left out.
    filled
        Which candidates of the block have entries, int64, one a start.
    items, context
        Candidate and item of the context, dense numbers, int64, shape ``(e,)``.
    entries
        Place of each entry in the context's own arrays, int64, shape ``(e,)``.
    """

    place: slice
    starts: LongArray
    filled: LongArray
    items: LongArray
    context: LongArray
    entries: LongArray

    def _spread(self, values: npt.NDArray[np.floating]) -> Doubles:
        whole = np.zeros(self.place.stop - self.place.start)
        whole[self.filled] = values
        return whole

    def sums(self, values: npt.NDArray[np.floating] | npt.NDArray[np.bool_]) -> Doubles:
        """Return the sum over each candidate's context; 0 where it is empty."""
        if not self.starts.size:
            return self._spread(np.empty(0))
        return self._spread(np.add.reduceat(values.astype(np.float64, copy=False), self.starts))

    def largest(self, values: npt.NDArray[np.floating]) -> Doubles:
        """Return the largest of values that are at least 0; 0 where the context is empty."""
        if not self.starts.size:
            return self._spread(np.empty(0))
        return self._spread(np.maximum.reduceat(values, self.starts))


def context_blocks(
    candidates: Candidates, context: Candidates, *, budget: int = BLOCK
) -> Iterator[ContextBlock]:
    """Yield each candidate with every item that ``context`` lists for its user.

    A candidate that is in its own context meets itself, too. Memory depends on ``budget``, not
    on the number of pairs; a single candidate may exceed it.

    Parameters
    ----------
    candidates
        n pairs.
    context
        Items per user, for example the purchases.
    budget
        Entries of one block.
    """
    sizes = context.sizes[candidates.users]
    ends = np.cumsum(sizes)
    start = 0
    while start < len(candidates):
        before = int(ends[start - 1]) if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, before + budget, side="right")))
        here = sizes[start:stop]
        offsets = np.cumsum(here) - here
        first = context.indptr[candidates.users[start:stop]]
        entries = np.arange(here.sum()) + np.repeat(first - offsets, here)
        filled = np.flatnonzero(here)
        yield ContextBlock(
            place=slice(start, stop),
            starts=offsets[filled],
            filled=filled,
            items=np.repeat(candidates.items[start:stop], here),
            context=context.items[entries],
            entries=entries,
        )
        start = stop
