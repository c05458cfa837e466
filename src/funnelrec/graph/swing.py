"""Nodes that are alike because pairs of partners who share little else share both of them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from funnelrec.common.errors import ConfigError
from funnelrec.graph.neighbors import PRODUCT_BUDGET, neighbors

LongArray = npt.NDArray[np.int64]


# Bytes of a pair of partners: where it is, its number, and both sorted; of an entry of a product:
# what is compared, its place, and what is kept of it; of a neighbor: in blocks, whole and sorted.
_PAIR, _PRODUCT, _NEIGHBOR = 64, 40, 40


def swing_memory(size: int, entries: int, keep: int, *, most: int) -> int:
    """Return the bytes that :func:`swing_neighbors` takes for a matrix of so many entries.

    Parameters
    ----------
    size
        Rows.
    entries
        Of the matrix.
    keep, most
        As there.
    """
    if not keep:
        return 0
    pairs = min(size * most * (most - 1), entries * (most - 1)) // 2
    products = min(PRODUCT_BUDGET, size * size)
    return _PAIR * pairs + _PRODUCT * products + _NEIGHBOR * size * min(keep, size)


def swing_neighbors(
    matrix: sp.csr_array, keep: int, *, alpha: float, most: int, rng: np.random.Generator
) -> LongArray:
    r"""Return the ``keep`` nodes most like every row by the measure Swing, int64, padded with -1.

    .. math:: \text{sim}(i, j) = \sum_{\{a, b\} \subseteq U_i \cap U_j}
       \frac{1}{\alpha + |I_a \cap I_b|}

    for rows i and j, their partners U (columns) and the rows I of a partner.

    Parameters
    ----------
    matrix
        Binary, shape ``(n, m)``, sorted indices.
    keep
        At least 1. Among equals the lower number comes first.
    alpha
        Above 0.
    most
        Partners a row keeps, at least 2, drawn without replacement where it has more: the measure
        is of pairs of partners, so the work grows with the square.
    rng
        Source of that draw.

    Returns
    -------
    numpy.ndarray
        Shape ``(n, keep)``, the most similar first; a row is never its own neighbor.

    Raises
    ------
    ConfigError
        If a number is outside its range.

    Examples
    --------
    >>> bought_by = sp.csr_array(np.array([[1, 1, 0, 1], [1, 1, 1, 0], [0, 0, 1, 1]], dtype=float))
    >>> swing_neighbors(bought_by, 2, alpha=1.0, most=9, rng=np.random.default_rng(0)).tolist()
    [[1, -1], [0, -1], [-1, -1]]
    """
    if keep < 1 or most < 2 or alpha <= 0:
        raise ConfigError(
            "swing_neighbors needs keep of at least 1, most of at least 2 and alpha above 0, got "
            f"keep={keep}, most={most}, alpha={alpha}."
        )
    size, partners = matrix.shape
    table = np.full((size, keep), -1, dtype=np.int64)
    rows, pairs = _pairs(_padded(matrix, most, rng), partners)
    _, number, shared = np.unique(pairs, return_inverse=True, return_counts=True)
    # A pair that only one row has makes no two rows alike.
    useful = shared[number] > 1
    rows, number = rows[useful], number[useful]
    if not rows.size:
        return table
    shape = (size, shared.size)
    weights = (1 / (alpha + shared[number])).astype(np.float32)
    left = sp.csr_array((weights, (rows, number)), shape=shape)
    right = sp.csr_array((np.ones(rows.size, dtype=np.float32), (rows, number)), shape=shape)
    found = neighbors(left, right.T.tocsr(), keep)
    of = np.repeat(np.arange(size), np.diff(found.indptr))
    order = np.lexsort((found.indices, -found.data, of))
    place = np.arange(order.size) - found.indptr[of]
    first = place < keep
    table[of[first], place[first]] = found.indices[order][first]
    return table


def _padded(matrix: sp.csr_array, most: int, rng: np.random.Generator) -> LongArray:
    """Return up to ``most`` columns of every row, ascending, padded with -1 at the end."""
    rows = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))
    drawn = np.lexsort((rng.random(rows.size), rows))
    place = np.arange(rows.size) - matrix.indptr[rows]
    kept = np.sort(drawn[place < most])
    counts = np.bincount(rows[kept], minlength=matrix.shape[0])
    starts = np.cumsum(counts) - counts
    padded = np.full((matrix.shape[0], most), -1, dtype=np.int64)
    padded[rows[kept], np.arange(kept.size) - starts[rows[kept]]] = matrix.indices[kept]
    return padded


def _pairs(padded: LongArray, partners: int) -> tuple[LongArray, LongArray]:
    """Return row and number of every pair of columns within a row."""
    first, second = np.triu_indices(padded.shape[1], k=1)
    there = padded[:, second] >= 0
    rows = np.broadcast_to(np.arange(len(padded))[:, None], there.shape)[there]
    return rows, (padded[:, first] * partners + padded[:, second])[there]
