"""Products of a constant sparse matrix with a dense one: the kernels, and which one is taken."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from funnelrec.common.errors import ConfigError
from funnelrec.graph.adjacency import CsrMatrix, Kernel

ON_CPU: Kernel = "bag"
"""On a CPU a weighted bag of rows is the fastest without a kernel of our own."""

TRITON_FROM = 4_000_000
"""Stored entries from which our own kernel beats cuSPARSE's on a GPU (docs/performance.md).

Measured at 1 and at 10 million; below, a launch of Triton's costs more than its product gains.
"""

TRITON_UP_TO = 128
"""Columns up to which it does: the fewer, the more."""


def fastest(entries: int, columns: int, *, cuda: bool, triton: bool = True) -> Kernel:
    """Return the kernel that a product takes if none is named.

    Parameters
    ----------
    entries
        Stored entries of the sparse matrix.
    columns
        Of the dense one.
    cuda
        Whether they are on a CUDA device.
    triton
        Whether the package triton is installed; torch's CUDA builds bring it along on Linux.

    Examples
    --------
    >>> fastest(10**6, 64, cuda=False), fastest(10**6, 64, cuda=True)
    ('bag', 'csr')
    >>> fastest(10**7, 64, cuda=True), fastest(10**7, 64, cuda=True, triton=False)
    ('triton', 'csr')
    """
    if not cuda:
        return ON_CPU
    return "triton" if triton and entries >= TRITON_FROM and columns <= TRITON_UP_TO else "csr"


@cache
def _has_triton() -> bool:
    return find_spec("triton") is not None


def multiply(matrix: CsrMatrix, dense: Tensor) -> Tensor:
    """Return ``matrix @ dense`` by the kernel of the matrix, or by the device's if it names none.

    Parameters
    ----------
    matrix
        Shape ``(m, n)``.
    dense
        Shape ``(n, d)``, on the same device.

    Returns
    -------
    Tensor
        Shape ``(m, d)``, without a gradient of its own.

    Raises
    ------
    ConfigError
        If the kernel does not run on this device.
    """
    if matrix.nnz == 0 or dense.shape[1] == 0:
        return dense.new_zeros(matrix.shape[0], dense.shape[1])
    kernel = matrix.kernel or fastest(
        matrix.nnz, dense.shape[1], cuda=dense.is_cuda, triton=_has_triton()
    )
    return KERNELS[kernel](matrix, dense.contiguous())


def by_bags(matrix: CsrMatrix, dense: Tensor) -> Tensor:
    """Return the product as a weighted sum over a bag of rows."""
    return F.embedding_bag(
        matrix.indices,
        # Of a parameter, more would be kept for a gradient that nobody asks for here.
        dense.detach(),
        matrix.indptr,
        mode="sum",
        per_sample_weights=matrix.values.to(dense.dtype),
        include_last_offset=True,
    )


def by_compressed_rows(matrix: CsrMatrix, dense: Tensor) -> Tensor:
    """Return the product by torch's CSR kernel."""
    product: Tensor = matrix.sparse @ dense
    return product


def by_triton(matrix: CsrMatrix, dense: Tensor) -> Tensor:
    """Return the product by a kernel of our own, on CUDA only.

    Raises
    ------
    ConfigError
        On a CPU, or without Triton, which comes with torch's CUDA builds.
    """
    if not dense.is_cuda:
        raise ConfigError(
            f"kernel='triton' runs on CUDA devices only, got a tensor on {dense.device.type}; "
            "take 'bag' or 'csr'."
        )
    try:
        # Only here: Triton comes with torch's CUDA builds and is not imported on a CPU.
        triton: Any = import_module("funnelrec.graph.triton_product")
    except ImportError as error:
        raise ConfigError(
            f"kernel='triton' needs the package triton ({error}), which comes with torch's CUDA "
            "builds; take 'csr' or 'bag'."
        ) from error
    # A kernel is launched on the current device, which need not be that of the tensors.
    with torch.cuda.device(dense.device):
        product: Tensor = triton.product(matrix, dense)
    return product


KERNELS: Mapping[Kernel, Callable[[CsrMatrix, Tensor], Tensor]] = {
    "bag": by_bags,
    "csr": by_compressed_rows,
    "triton": by_triton,
}
"""The kernels by name; all take ``(matrix, dense)`` with a contiguous ``dense``."""
