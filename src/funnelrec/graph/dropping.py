"""A graph without some of its nodes or edges, for views that a model contrasts."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from funnelrec.graph.adjacency import Adjacency, CsrMatrix

Dropping = Literal["nodes", "edges"]


def dropped_graph(
    graph: Adjacency, kind: Dropping, ratio: float, generator: torch.Generator
) -> Adjacency:
    r"""Return the graph that is left, normalised by the degrees that are left.

    Which edges exist stays as it is; those that were dropped have the weight 0, so nothing is
    sorted and the work is done on the device of the graph.

    Parameters
    ----------
    graph
        Of ones: only where it has edges is read.
    kind
        ``nodes`` drops users and items with all of their edges, ``edges`` single edges.
    ratio
        Share of users and of items, or of edges, from 0 to 1; their number is rounded down.
    generator
        Source of the draw, on the device of the graph.

    References
    ----------
    Wu et al., "Self-supervised Graph Learning for Recommendation", SIGIR 2021.

    Examples
    --------
    >>> import numpy as np, scipy.sparse as sp
    >>> whole = Adjacency.from_matrix(sp.csr_array(np.ones((4, 6))))
    >>> left = dropped_graph(whole, "nodes", 0.5, torch.Generator().manual_seed(0))
    >>> kept = left.to_users.values
    >>> [round(value, 4) for value in kept.unique().tolist()], int((kept > 0).sum())
    ([0.0, 0.4082], 6)
    """
    half, other = graph.to_users, graph.to_items
    users, items = _rows(half), half.indices.long()
    # Stable: entries by item and, within it, by user, which is the order of the other half.
    order = torch.argsort(items, stable=True)
    like = half.values
    if kind == "nodes":
        kept = _kept(graph.n_users, ratio, generator, like)[users]
        kept = kept * _kept(graph.n_items, ratio, generator, like)[items]
    else:
        kept = _kept(half.nnz, ratio, generator, like)
    scale = _scale(users, kept, graph.n_users)[users] * _scale(items, kept, graph.n_items)[items]
    values = kept * scale
    return Adjacency(replace(half, values=values), replace(other, values=values[order]))


def _rows(matrix: CsrMatrix) -> Tensor:
    numbers = torch.arange(matrix.shape[0], device=matrix.indptr.device)
    # Told the size, a GPU need not be asked for it.
    return torch.repeat_interleave(numbers, matrix.indptr.diff().long(), output_size=matrix.nnz)


def _kept(size: int, ratio: float, generator: torch.Generator, like: Tensor) -> Tensor:
    kept = like.new_ones(size)
    kept[torch.randperm(size, generator=generator, device=like.device)[: int(size * ratio)]] = 0
    return kept


def _scale(ends: Tensor, kept: Tensor, size: int) -> Tensor:
    degrees = kept.new_zeros(size).index_add_(0, ends, kept)
    return torch.where(degrees > 0, degrees.clamp_min(1).rsqrt(), 0.0)
