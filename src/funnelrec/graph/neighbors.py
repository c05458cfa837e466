"""Products of two sparse matrices, cut to the strongest entries of every row as they arise."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
import torch

from funnelrec.common.errors import ConfigError
from funnelrec.common.threads import each

Values = npt.NDArray[np.float32]
Places = npt.NDArray[np.int64]
Weighing = Callable[[Places, Places, Values], Values]
Result = TypeVar("Result")

PRODUCT_BUDGET = 2**22
"""Multiplications of the blocks in work, and so the most entries that are held at one time."""


def strongest_per_row(matrix: sp.csr_array, keep: int) -> sp.csr_array:
    """Return the ``keep`` largest entries of every row, and all that equal the last of them.

    Ties are kept, not broken: breaking them by column would make a result depend on how items
    were numbered.

    Parameters
    ----------
    matrix
        Entries above 0, float32, shape ``(m, n)``.
    keep
        At least 1.

    Examples
    --------
    >>> rows = sp.csr_array(np.array([[1.0, 3.0, 2.0], [2.0, 2.0, 0.0]], dtype=np.float32))
    >>> strongest_per_row(rows, 1).data.tolist()
    [3.0, 2.0, 2.0]
    """
    if keep < 1:
        raise ConfigError(f"keep must be at least 1, got {keep}.")
    sizes = np.diff(matrix.indptr)
    if not (sizes > keep).any():
        return matrix
    values = matrix.data.astype(np.float32, copy=False)
    rows = np.repeat(np.arange(matrix.shape[0], dtype=np.uint64), sizes)
    # The bits of a positive float grow with it: one sort of whole numbers orders every row.
    order = np.sort((rows << np.uint64(32)) | values.view(np.uint32))
    last = matrix.indptr[1:] - np.minimum(sizes, keep)
    # An empty row at the end has no place; its bound is never looked at.
    bounds = (order[np.minimum(last, order.size - 1)] & np.uint64(0xFFFFFFFF)).astype(np.uint32)
    kept = values.view(np.uint32) >= np.repeat(bounds, sizes)
    before = np.concatenate([[0], np.cumsum(kept)])
    return sp.csr_array(
        (values[kept], matrix.indices[kept], before[matrix.indptr].astype(np.int32)),
        shape=matrix.shape,
    )


def _row_blocks(left: sp.csr_array, right: sp.csr_array, budget: int) -> Iterator[slice]:
    """Yield rows of the left matrix whose product takes at most so many multiplications.

    A single row may exceed it.
    """
    # What a row costs: for each of its entries, the size of that row on the right.
    sizes = np.diff(right.indptr).astype(np.float64)
    entries = np.concatenate([[0.0], np.cumsum(sizes[left.indices])])
    done = entries[left.indptr]
    start, end = 0, int(left.shape[0])
    while start < end:
        stop = int(np.searchsorted(done, done[start] + budget, side="right")) - 1
        stop = min(max(stop, start + 1), end)
        yield slice(start, stop)
        start = stop


def products(
    left: sp.csr_array,
    right: sp.csr_array,
    use: Callable[[int, sp.csr_array], Result],
    *,
    budget: int = PRODUCT_BUDGET,
) -> list[Result]:
    """Return what is made of a product of two sparse matrices, block of rows by block of rows.

    Torch's number of threads work on as many blocks at a time.

    Parameters
    ----------
    left, right
        Shapes ``(m, k)`` and ``(k, n)``.
    use
        Given the first row number of a block and the block; called by several threads at a time.
    budget
        Bound on the multiplications of the blocks in work; a single row may exceed it.
    """
    threads = torch.get_num_threads()

    def made(here: slice) -> Result:
        return use(here.start, (left[here] @ right).tocsr())

    return each(made, _row_blocks(left, right, budget // threads), threads=threads)


def write_product(
    left: sp.csr_array,
    right: sp.csr_array,
    table: npt.NDArray[Any],
    *,
    budget: int = PRODUCT_BUDGET,
) -> None:
    """Write the entries of a product of two sparse matrices into a dense table of its shape."""

    def write(start: int, product: sp.csr_array) -> None:
        rows = start + np.repeat(np.arange(product.shape[0]), np.diff(product.indptr))
        table[rows, product.indices] = product.data

    products(left, right, write, budget=budget)


def neighbors(
    left: sp.csr_array,
    right: sp.csr_array,
    keep: int,
    *,
    weigh: Weighing | None = None,
    own: float = 0.0,
    budget: int = PRODUCT_BUDGET,
) -> sp.csr_array:
    """Return the strongest entries of every row of a square product, in blocks of rows.

    Parameters
    ----------
    left, right
        Shapes ``(n, m)`` and ``(m, n)``, entries above 0.
    keep
        Entries a row beside the diagonal; ties with the last one are kept, too.
    weigh
        Given row numbers, column numbers and products, returns what is compared and kept, in
        several threads at a time; 0 or less is dropped. The products themselves if not given.
    own
        Factor on the diagonal, which is never cut; 0 drops it.
    budget
        Bound on the multiplications of the blocks in work (a single row may exceed it): memory,
        never the result.

    Returns
    -------
    scipy.sparse.csr_array
        float32, shape ``(n, n)``, sorted indices.
    """
    size = int(left.shape[0])

    def strongest(start: int, product: sp.csr_array) -> sp.csr_array:
        stop = start + product.shape[0]
        rows = np.repeat(np.arange(start, stop, dtype=np.int64), np.diff(product.indptr))
        columns = product.indices.astype(np.int64)
        values = product.data.astype(np.float32, copy=False)
        if weigh is not None:
            values = weigh(rows, columns, values).astype(np.float32, copy=False)
        same = rows == columns
        others = (values > 0) & ~same
        cut = strongest_per_row(_selected(product, values, others), keep)
        if own > 0:
            cut = (cut + _selected(product, values * np.float32(own), same)).tocsr()
        return cut

    whole = sp.vstack(products(left, right, strongest, budget=budget), format="csr")
    result = sp.csr_array((whole.data, whole.indices, whole.indptr), shape=(size, size))
    result.sort_indices()
    return result


def _selected(matrix: sp.csr_array, values: Values, chosen: npt.NDArray[np.bool_]) -> sp.csr_array:
    before = np.concatenate([[0], np.cumsum(chosen)])
    return sp.csr_array(
        (values[chosen], matrix.indices[chosen], before[matrix.indptr].astype(np.int32)),
        shape=matrix.shape,
    )
