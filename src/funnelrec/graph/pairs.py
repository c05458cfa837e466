"""Products of embeddings at given pairs, and nowhere else."""

from __future__ import annotations

import warnings

import numpy as np
import numpy.typing as npt
import torch

from funnelrec.common.errors import DataError

Floats = npt.NDArray[np.float32]

_NUMBERS = 2**22
"""Numbers gathered at one time where torch has no sampled product: what a cache holds."""


def pair_products(
    left: Floats, right: Floats, indptr: npt.NDArray[np.int64], indices: npt.NDArray[np.integer]
) -> Floats:
    r"""Return :math:`l_u^T r_i` of the pairs (u, i) of a pattern, row after row.

    The pattern is read as a sparse matrix that samples :math:`L R^T`, so that a row of L is read
    once for all its pairs and nothing is gathered into a table of pairs x d (ten times as fast as
    that, d = 512); where torch was built without MKL, pairs are gathered in blocks.

    Parameters
    ----------
    left, right
        L and R, float32, shape ``(n_rows, d)`` and ``(n_columns, d)``.
    indptr, indices
        The pattern in compressed rows, ``(n_rows + 1,)`` and ``(n,)``.

    Returns
    -------
    float32, shape ``(n,)``.

    Raises
    ------
    DataError
        If the pattern does not fit the rows of L, or names a row that R has not.

    Examples
    --------
    >>> left = np.array([[1.0, 2.0], [0.0, 1.0]], dtype=np.float32)
    >>> pair_products(left, left, np.array([0, 2, 3]), np.array([0, 1, 1])).tolist()
    [5.0, 2.0, 1.0]
    """
    if len(indptr) != len(left) + 1:
        raise DataError(
            f"indptr must have {len(left) + 1} entries, one a row of left and one more, got "
            f"{len(indptr)}."
        )
    if len(indices) and not (indices.min() >= 0 and indices.max() < len(right)):
        raise DataError(
            f"indices must be rows of right, 0 to {len(right) - 1}, got "
            f"{indices.min()} to {indices.max()}."
        )
    if not len(indices) or not left.shape[1]:
        return np.zeros(len(indices), dtype=np.float32)
    if torch.backends.mkl.is_available():  # type: ignore[no-untyped-call] # torch has none there
        return _sampled(left, right, indptr, indices)
    return _gathered(left, right, indptr, indices)


def _sampled(
    left: Floats, right: Floats, indptr: npt.NDArray[np.int64], indices: npt.NDArray[np.integer]
) -> Floats:
    with warnings.catch_warnings():
        # Torch calls its compressed rows a beta; what is used of them is tested here.
        warnings.simplefilter("ignore", UserWarning)
        pattern = torch.sparse_csr_tensor(
            torch.from_numpy(indptr.astype(np.int64, copy=False)),
            torch.from_numpy(indices.astype(np.int64, copy=False)),
            torch.zeros(len(indices)),
            (len(left), len(right)),
            check_invariants=False,
        )
        found = torch.sparse.sampled_addmm(
            pattern,
            torch.from_numpy(np.ascontiguousarray(left)),
            torch.from_numpy(np.ascontiguousarray(right)).T,
            beta=0.0,
        )
    return np.asarray(found.values().numpy())


def _gathered(
    left: Floats, right: Floats, indptr: npt.NDArray[np.int64], indices: npt.NDArray[np.integer]
) -> Floats:
    rows = np.repeat(np.arange(len(left)), np.diff(indptr))
    found = np.empty(len(indices), dtype=np.float32)
    step = max(1, _NUMBERS // left.shape[1])
    for start in range(0, len(indices), step):
        here = slice(start, start + step)
        found[here] = np.einsum("nd,nd->n", left[rows[here]], right[indices[here]])
    return found
