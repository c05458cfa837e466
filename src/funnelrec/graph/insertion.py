"""What a user's embedding would be with one more edge: exact, and one propagation a question."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from funnelrec.graph.adjacency import Adjacency
from funnelrec.graph.propagation import Combination, propagate_users


def users_after_insertion(
    graph: Adjacency,
    users: Tensor,
    items: Tensor,
    pairs: tuple[Tensor, Tensor],
    *,
    layers: int,
    combine: Combination = "mean",
) -> Tensor:
    """Return the embedding of the user of each pair in the graph with that pair added.

    Every answer normalises and propagates a graph of its own, so this is for small graphs and
    for checks of what approximates it. A pair that is an edge already changes nothing.

    Parameters
    ----------
    graph
        A symmetrically normalised graph of ones.
    users, items
        Layer 0, shapes ``(n_users, d)`` and ``(n_items, d)``.
    pairs
        User and item numbers, int64, shape ``(n,)`` each; every pair is added alone.
    layers, combine
        See :func:`funnelrec.graph.propagation.propagate`.

    Returns
    -------
    Tensor
        Shape ``(n, d)``.

    Examples
    --------
    >>> graph = Adjacency.from_matrix(sp.csr_array(np.array([[1.0, 0.0]])))
    >>> start, pair = torch.zeros(1, 1), (torch.tensor([0]), torch.tensor([1]))
    >>> added = users_after_insertion(graph, start, torch.ones(2, 1), pair, layers=1)
    >>> round(added.item(), 4)
    0.7071
    """
    half = graph.to_users
    indptr, indices = half.indptr.cpu().numpy(), half.indices.cpu().numpy()
    rows = np.repeat(np.arange(half.shape[0]), np.diff(indptr))
    dtype = np.float64 if users.dtype == torch.float64 else np.float32
    answers = []
    for user, item in zip(pairs[0].tolist(), pairs[1].tolist(), strict=True):
        there = (np.append(rows, user), np.append(indices, item))
        matrix = sp.coo_array((np.ones(len(there[0])), there), shape=half.shape).tocsr()
        matrix.data[:] = 1
        wider = Adjacency.from_matrix(matrix, dtype=dtype).to(users.device)
        views = propagate_users([wider], users, items, layers=layers, combine=combine)
        answers.append(views[0, user])
    return torch.stack(answers) if answers else users.new_empty(0, users.shape[1])
