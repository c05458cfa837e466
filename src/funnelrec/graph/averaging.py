"""Propagation in which a node hears the mean of its neighbors, not a symmetric weighting."""

from __future__ import annotations

from torch import Tensor

from funnelrec.graph.adjacency import Adjacency
from funnelrec.graph.propagation import sparse_product

Nodes = tuple[Tensor, Tensor]


def average(graph: Adjacency, users: Tensor, items: Tensor) -> Nodes:
    r"""Return what every node hears from its neighbors: their weighted mean.

    .. math:: x'_u = \frac{\sum_i w_{ui} x_i}{\sum_i w_{ui}}, \qquad
       x'_i = \frac{\sum_u w_{ui} x_u}{\sum_u w_{ui}}

    which is the row-normalised (M + N) x (M + N) matrix times the stacked embeddings. An
    isolated node hears nothing: zeros.

    Parameters
    ----------
    graph
        Built with ``normalization="none"``.
    users, items
        Shapes ``(M, d)`` and ``(N, d)``.

    Examples
    --------
    >>> import numpy as np, scipy.sparse as sp, torch
    >>> counts = sp.csr_array(np.array([[1.0, 3.0], [0.0, 0.0]]))
    >>> graph = Adjacency.from_matrix(counts, normalization="none")
    >>> heard, _ = average(graph, torch.zeros(2, 1), torch.tensor([[0.0], [4.0]]))
    >>> heard.tolist()
    [[3.0], [0.0]]
    """
    of_users, of_items = graph.inverse_sums
    return (
        sparse_product(graph.to_users, graph.to_items, items) * of_users,
        sparse_product(graph.to_items, graph.to_users, users) * of_items,
    )


def average_users(graph: Adjacency, items: Tensor, *, thinned: Adjacency | None = None) -> Tensor:
    """Return the users' half of what :func:`average` returns, shape ``(M, d)``.

    Parameters
    ----------
    graph
        Built with ``normalization="none"``. Of items on both sides it is a graph of items.
    items
        Shape ``(N, d)``.
    thinned
        The same graph without some of its edges: what is heard is divided by what the whole graph
        has.
    """
    through = graph if thinned is None else thinned
    return sparse_product(through.to_users, through.to_items, items) * graph.inverse_sums[0]


def residual(graph: Adjacency, users: Tensor, items: Tensor, *, layers: int) -> tuple[Nodes, Nodes]:
    r"""Return the sum of layers 0 to L, and layer L, where every layer adds what is heard.

    .. math:: Y^l = P Y^{l-1} + Y^{l-1}, \qquad P = D^{-1} A

    as in the releases of PKEF and COPF. Nothing is divided: an all-ones layer 0 gives
    :math:`2^l` at a connected node and 1 at an isolated one.

    Parameters
    ----------
    graph
        Built with ``normalization="none"``.
    users, items
        Layer 0, shapes ``(M, d)`` and ``(N, d)``.
    layers
        L, at least 0.

    Returns
    -------
    tuple
        Users and items of the sum, users and items of the last layer.

    Examples
    --------
    >>> import numpy as np, scipy.sparse as sp, torch
    >>> edge = Adjacency.from_matrix(sp.csr_array(np.array([[1.0, 0.0]])), normalization="none")
    >>> (_, items), _ = residual(edge, torch.ones(1, 1), torch.ones(2, 1), layers=1)
    >>> items.tolist()
    [[3.0], [2.0]]
    """
    total = last = (users, items)
    for _ in range(layers):
        heard = average(graph, *last)
        last = (last[0] + heard[0], last[1] + heard[1])
        total = (total[0] + last[0], total[1] + last[1])
    return total, last
