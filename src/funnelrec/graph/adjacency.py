"""The normalised user-item graph of one behavior, kept in both directions."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
import torch
from torch import Tensor

from funnelrec.common.errors import DataError

Normalization = Literal["symmetric", "none"]
Kernel = Literal["bag", "csr", "triton"]

# Entries of a row that one program of a kernel takes; longer rows are cut.
_PIECE = 512


@dataclass(frozen=True, eq=False)
class Pieces:
    """Rows of a compressed matrix cut into pieces, all int32 and on its device.

    Parameters
    ----------
    starts, ends
        Entries of each piece, shape ``(p,)``; empty rows have one empty piece.
    targets
        Row of the piece where it is the only one, else -1 - j with j its place among the pieces of
        long rows, shape ``(p,)``.
    long_rows
        Rows of several pieces, ascending, shape ``(m,)``.
    bounds
        The pieces of the j-th long row are ``bounds[j]`` to ``bounds[j + 1]``, shape ``(m + 1,)``.
    n_partial
        Pieces of long rows.
    """

    starts: Tensor
    ends: Tensor
    targets: Tensor
    long_rows: Tensor
    bounds: Tensor
    n_partial: int

    @classmethod
    def of(cls, indptr: Tensor, length: int) -> Self:
        """Return the pieces of at most ``length`` entries.

        Examples
        --------
        >>> cut = Pieces.of(torch.tensor([0, 2, 2, 7]), 3)
        >>> cut.starts.tolist(), cut.ends.tolist(), cut.targets.tolist()
        ([0, 2, 2, 5], [2, 2, 5, 7], [0, 1, -1, -2])
        """
        sizes = indptr.diff().long()
        counts = (sizes + length - 1).div(length, rounding_mode="floor").clamp_min(1)
        rows = torch.repeat_interleave(torch.arange(len(sizes), device=indptr.device), counts)
        nth = torch.arange(len(rows), device=indptr.device) - (counts.cumsum(0) - counts)[rows]
        starts = indptr[rows].long() + nth * length
        ends = torch.minimum(starts + length, indptr[rows + 1].long())
        cut = counts > 1
        of_long = cut[rows]
        targets = torch.where(of_long, -of_long.long().cumsum(0), rows)
        long_rows = cut.nonzero()[:, 0]
        bounds = torch.cat([counts.new_zeros(1), counts[cut].cumsum(0)])
        return cls(
            starts.to(torch.int32),
            ends.to(torch.int32),
            targets.to(torch.int32),
            long_rows.to(torch.int32),
            bounds.to(torch.int32),
            int(of_long.sum()),
        )


@dataclass(frozen=True, eq=False)
class CsrMatrix:
    """A constant sparse matrix in compressed rows, as three tensors on one device.

    Parameters
    ----------
    indptr
        int32, shape ``(rows + 1,)``.
    indices
        int32, shape ``(nnz,)``: column numbers, ascending within a row.
    values
        floating, shape ``(nnz,)``.
    shape
        ``(rows, columns)``.
    kernel
        What multiplies it (:mod:`funnelrec.graph.products`); None for the device's fastest.
    """

    indptr: Tensor
    indices: Tensor
    values: Tensor
    shape: tuple[int, int]
    kernel: Kernel | None = None

    @property
    def nnz(self) -> int:
        """Number of stored entries."""
        return int(self.indices.numel())

    @classmethod
    def from_scipy(cls, matrix: sp.csr_array) -> Self:
        """Return the matrix with int32 indices; 2**31 entries or more are refused."""
        if matrix.nnz > np.iinfo(np.int32).max:
            raise DataError(f"a graph may have at most 2**31 - 1 edges, got {matrix.nnz}.")
        return cls(
            indptr=torch.from_numpy(matrix.indptr.astype(np.int32)),
            indices=torch.from_numpy(matrix.indices.astype(np.int32)),
            values=torch.from_numpy(np.array(matrix.data)),
            shape=(int(matrix.shape[0]), int(matrix.shape[1])),
        )

    def to(self, device: torch.device | str) -> CsrMatrix:
        """Return the matrix on ``device``."""
        return CsrMatrix(
            self.indptr.to(device),
            self.indices.to(device),
            self.values.to(device),
            self.shape,
            self.kernel,
        )

    @cached_property
    def sparse(self) -> Tensor:
        """The matrix as torch's own sparse tensor, over the same memory."""
        with warnings.catch_warnings():
            # Torch calls its compressed rows a beta; what is used of them is tested here.
            warnings.simplefilter("ignore", UserWarning)
            return torch.sparse_csr_tensor(
                self.indptr, self.indices, self.values, self.shape, check_invariants=False
            )

    @cached_property
    def _host(self) -> sp.csr_array:
        """The matrix as scipy's, over the same memory of a CPU."""
        parts = (self.values.numpy(), self.indices.numpy(), self.indptr.numpy())
        return sp.csr_array(parts, shape=self.shape, copy=False)

    def taking(self, rows: Tensor) -> CsrMatrix:
        """Return some rows of a matrix on a CPU, in the order given.

        Parameters
        ----------
        rows
            int64, shape ``(k,)``.

        Examples
        --------
        >>> import numpy as np
        >>> matrix = CsrMatrix.from_scipy(sp.csr_array(np.array([[1.0, 0.0], [2.0, 3.0]])))
        >>> taken = matrix.taking(torch.tensor([1]))
        >>> taken.indices.tolist(), taken.values.tolist(), taken.shape
        ([0, 1], [2.0, 3.0], (1, 2))
        """
        return self._like(self._host[rows.numpy()])

    def transposed(self) -> CsrMatrix:
        """Return the transpose of a matrix on a CPU.

        Examples
        --------
        >>> import numpy as np
        >>> matrix = CsrMatrix.from_scipy(sp.csr_array(np.array([[1.0, 0.0], [2.0, 3.0]])))
        >>> matrix.transposed().indptr.tolist(), matrix.transposed().values.tolist()
        ([0, 2, 3], [1.0, 2.0, 3.0])
        """
        return self._like(self._host.T.tocsr())

    def _like(self, matrix: sp.csr_array) -> CsrMatrix:
        return CsrMatrix(
            torch.from_numpy(matrix.indptr.astype(np.int32, copy=False)),
            torch.from_numpy(matrix.indices.astype(np.int32, copy=False)),
            torch.from_numpy(matrix.data),
            (int(matrix.shape[0]), int(matrix.shape[1])),
            self.kernel,
        )

    @cached_property
    def pieces(self) -> Pieces:
        """The rows cut into pieces of bounded length."""
        return Pieces.of(self.indptr, _PIECE)


@dataclass(frozen=True, eq=False)
class Adjacency:
    r"""The two halves of a normalised bipartite graph.

    For a binary matrix ``R`` (users x items) with degrees ``d_u`` and ``d_i`` the entry of an
    edge is :math:`1/\sqrt{d_u d_i}`; both the matrix and its transpose are stored, because
    every product needs the other one for its gradient. Isolated users and items have empty
    rows, so they receive zeros.

    Parameters
    ----------
    to_users
        Shape ``(n_users, n_items)``: takes item embeddings to users.
    to_items
        Its transpose, shape ``(n_items, n_users)``.

    Examples
    --------
    >>> import numpy as np, scipy.sparse as sp
    >>> graph = Adjacency.from_matrix(sp.csr_array(np.array([[1.0, 1.0], [0.0, 1.0]])))
    >>> [round(value, 3) for value in graph.to_users.values.tolist()]
    [0.707, 0.5, 0.707]
    """

    to_users: CsrMatrix
    to_items: CsrMatrix

    @classmethod
    def from_matrix(
        cls,
        matrix: sp.csr_array,
        *,
        normalization: Normalization = "symmetric",
        dtype: npt.DTypeLike = np.float32,
    ) -> Self:
        """Return the graph of a users x items matrix.

        Parameters
        ----------
        matrix
            Weights are used as they are (ones for a plain graph); repeated entries are merged
            into one of weight one if they were all ones, added up otherwise.
        normalization
            ``symmetric`` divides by the square roots of both weighted degrees, ``none`` keeps
            the weights.
        dtype
            float32, or float64 for exact checks.

        Raises
        ------
        DataError
            If a weight is negative or not finite.
        """
        matrix = sp.csr_array(matrix, copy=True)
        binary = bool(np.all(matrix.data == 1))
        matrix.sum_duplicates()
        if binary:
            matrix.data[:] = 1
        matrix.eliminate_zeros()
        if not np.all(np.isfinite(matrix.data)) or np.any(matrix.data < 0):
            raise DataError("edge weights must be finite and not negative.")
        weights: npt.NDArray[Any] = matrix.data.astype(np.float64)
        if normalization == "symmetric":
            rows = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))
            of_users = np.bincount(rows, weights, minlength=matrix.shape[0])
            of_items = np.bincount(matrix.indices, weights, minlength=matrix.shape[1])
            # Only endpoints of edges are looked up, so no degree below is zero.
            weights = weights / np.sqrt(of_users[rows] * of_items[matrix.indices])
        normalised = sp.csr_array(
            (weights.astype(dtype), matrix.indices, matrix.indptr), shape=matrix.shape
        )
        transposed = normalised.T.tocsr()
        transposed.sort_indices()
        return cls(CsrMatrix.from_scipy(normalised), CsrMatrix.from_scipy(transposed))

    @property
    def n_users(self) -> int:
        """Number of users."""
        return self.to_users.shape[0]

    @property
    def n_items(self) -> int:
        """Number of items."""
        return self.to_users.shape[1]

    @cached_property
    def inverse_sums(self) -> tuple[Tensor, Tensor]:
        """One over the summed weights of every user and of every item, 0 where there are none.

        Shapes ``(n_users, 1)`` and ``(n_items, 1)``, on the device of the graph.
        """
        return _inverse_sums(self.to_users), _inverse_sums(self.to_items)

    @cached_property
    def _transposition(self) -> Tensor:
        """Where each entry of ``to_items`` stands in ``to_users``, int64."""
        return torch.argsort(self.to_users.indices, stable=True)

    def thinned(self, rate: float, generator: torch.Generator) -> Adjacency:
        """Return the graph with a share of its edges set to 0, the others scaled up to match.

        Parameters
        ----------
        rate
            Probability of a 0, from 0 (nothing is drawn) to below 1.
        generator
            Source of the draw, on the device of the graph.
        """
        if not rate:
            return self
        values = self.to_users.values
        drawn = torch.rand(values.shape, generator=generator, device=values.device)
        kept = values * (drawn >= rate) / (1 - rate)
        return Adjacency(
            replace(self.to_users, values=kept),
            replace(self.to_items, values=kept[self._transposition]),
        )

    def to(self, device: torch.device | str) -> Adjacency:
        """Return the graph on ``device``."""
        return Adjacency(self.to_users.to(device), self.to_items.to(device))

    def by(self, kernel: Kernel | None) -> Adjacency:
        """Return the same graph, multiplied by this kernel; None is the device's fastest."""
        return Adjacency(
            replace(self.to_users, kernel=kernel), replace(self.to_items, kernel=kernel)
        )


def _inverse_sums(matrix: CsrMatrix) -> Tensor:
    sizes = matrix.indptr.diff().long()
    rows = torch.repeat_interleave(torch.arange(len(sizes), device=sizes.device), sizes)
    sums = matrix.values.new_zeros(len(sizes)).index_add_(0, rows, matrix.values)
    # Weights are above 0, so only an empty row adds up to 0.
    return torch.where(sums > 0, 1 / sums.clamp_min(torch.finfo(sums.dtype).tiny), 0.0)[:, None]
