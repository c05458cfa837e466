"""A product of compressed rows with a dense matrix in Triton; imported on CUDA only.

A program takes one piece of a row: long rows, which a graph of power-law degrees has, are cut,
their pieces are added up by a second kernel, and no program waits for one that has a hundred
thousand entries. Nothing is added atomically, so the same input gives the same bits.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from funnelrec.graph.adjacency import CsrMatrix

# Entries times columns that one warp holds at a time: 32 registers a thread.
_TILE = 1024


def product(matrix: CsrMatrix, dense: Tensor) -> Tensor:
    """Return ``matrix @ dense``; sums are taken in float32, of float64 in float64.

    Parameters
    ----------
    matrix
        Shape ``(m, n)``, on a CUDA device.
    dense
        Shape ``(n, d)``, contiguous, on that device.

    Returns
    -------
    Tensor
        Shape ``(m, d)``, of the type of ``dense``.
    """
    pieces, dim = matrix.pieces, dense.shape[1]
    exact = dense.dtype == torch.float64
    out = dense.new_empty(matrix.shape[0], dim)
    held = torch.float64 if exact else torch.float32
    partial = torch.empty(pieces.n_partial, dim, dtype=held, device=dense.device)
    wide = triton.next_power_of_2(dim)
    shape = {
        "WIDE": wide,
        "ENTRIES": max(1, min(16, _TILE // wide)),
        "SUM": tl.float64 if exact else tl.float32,
        "num_warps": 1 if wide <= _TILE // 8 else 4,
    }
    _rows[(len(pieces.starts),)](
        *(pieces.starts, pieces.ends, pieces.targets),
        *(matrix.indices, matrix.values, dense, out, partial, dim),
        **shape,
    )
    if len(pieces.long_rows):
        _sums[(len(pieces.long_rows),)](pieces.long_rows, pieces.bounds, partial, out, dim, **shape)
    return out


def _rows_kernel(
    starts: "Any",
    ends: "Any",
    targets: "Any",
    indices: "Any",
    values: "Any",
    dense: "Any",
    out: "Any",
    partial: "Any",
    dim: "Any",
    WIDE: tl.constexpr,  # noqa: N803 - constants of a kernel are written large
    ENTRIES: tl.constexpr,  # noqa: N803
    SUM: tl.constexpr,  # noqa: N803
) -> None:
    piece = tl.program_id(0)
    start, end = tl.load(starts + piece), tl.load(ends + piece)
    target = tl.load(targets + piece)
    columns = tl.arange(0, WIDE)
    inside = columns < dim
    total = tl.zeros((ENTRIES, WIDE), SUM)
    for first in range(start, end, ENTRIES):
        entries = first + tl.arange(0, ENTRIES)
        there = entries < end
        rows = tl.load(indices + entries, mask=there, other=0).to(tl.int64)
        weights = tl.load(values + entries, mask=there, other=0.0).to(SUM)
        fetched = tl.load(
            dense + rows[:, None] * dim + columns[None, :],
            mask=there[:, None] & inside[None, :],
            other=0.0,
        )
        total += fetched.to(SUM) * weights[:, None]
    row = tl.sum(total, axis=0)
    if target >= 0:
        place = out + target.to(tl.int64) * dim + columns
        tl.store(place, row.to(out.dtype.element_ty), mask=inside)
    else:
        tl.store(partial + (-1 - target).to(tl.int64) * dim + columns, row, mask=inside)


def _sums_kernel(
    long_rows: "Any",
    bounds: "Any",
    partial: "Any",
    out: "Any",
    dim: "Any",
    WIDE: tl.constexpr,  # noqa: N803
    ENTRIES: tl.constexpr,  # noqa: N803
    SUM: tl.constexpr,  # noqa: N803
) -> None:
    place = tl.program_id(0)
    start, end = tl.load(bounds + place), tl.load(bounds + place + 1)
    columns = tl.arange(0, WIDE)
    inside = columns < dim
    total = tl.zeros((ENTRIES, WIDE), SUM)
    for first in range(start, end, ENTRIES):
        parts = first + tl.arange(0, ENTRIES)
        total += tl.load(
            partial + parts.to(tl.int64)[:, None] * dim + columns[None, :],
            mask=(parts < end)[:, None] & inside[None, :],
            other=0.0,
        )
    row = tl.sum(total, axis=0)
    target = out + tl.load(long_rows + place).to(tl.int64) * dim + columns
    tl.store(target, row.to(out.dtype.element_ty), mask=inside)


_rows: Any = triton.jit(_rows_kernel)
_sums: Any = triton.jit(_sums_kernel)
