"""What a candidate is to the other items of its user: counts over pairs of items, in blocks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from funnelrec.data.interactions import LongArray
from funnelrec.graph.neighbors import product_blocks
from funnelrec.models.funnel.candidates import Candidates, Doubles, Floats

BLOCK = 2**20
"""Entries (candidate and item of the context) held at one time."""


class PairCounts:
    r"""How many users have item i in one matrix and item j in another: :math:`A^T B`.

    Kept dense, float32, where the square of the items stays within ``budget`` bytes, and in
    compressed rows elsewhere. Counts are the same either way.

    Parameters
    ----------
    left, right
        A and B, shape ``(n_users, n_items)``, entries above 0.
    budget
        Bytes a dense matrix may take.
    """

    def __init__(self, left: sp.csr_array, right: sp.csr_array, *, budget: int) -> None:
        self.n_items = int(left.shape[1])
        self._dense: Floats | None = None
        self._rows: sp.csr_array | None = None
        blocks = product_blocks(left.T.tocsr(), right)
        if 4 * self.n_items**2 <= budget:
            dense = np.zeros((self.n_items, self.n_items), dtype=np.float32)
            for start, product in blocks:
                sizes = np.diff(product.indptr)
                dense[start + np.repeat(np.arange(len(sizes)), sizes), product.indices] = (
                    product.data
                )
            self._dense = dense.ravel()
        else:
            rows = sp.vstack([product for _, product in blocks], format="csr")
            rows.sort_indices()
            self._rows = sp.csr_array(
                (rows.data.astype(np.float32), rows.indices, rows.indptr), shape=rows.shape
            )

    def at(self, rows: LongArray, columns: LongArray) -> Floats:
        """Return the counts of these pairs of items, float32, shape ``(n,)``."""
        if self._dense is not None:
            return np.asarray(self._dense[rows * self.n_items + columns])
        assert self._rows is not None  # noqa: S101 - one of the two is always there
        if not len(rows):
            return np.empty(0, dtype=np.float32)
        return np.asarray(self._rows[rows, columns], dtype=np.float32).ravel()


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
