"""Propagation where only some rows are wanted: the memory of one graph, whatever their number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, get_args

import torch
from torch import Tensor

from funnelrec.graph.adjacency import Adjacency, CsrMatrix
from funnelrec.graph.products import multiply
from funnelrec.graph.propagation import (
    Combination,
    _as_given,
    _check_arguments,
    _leaves,
    _normalize_,
    _normalize_backward,
    propagate_composed,
)

# Nodes without an edge are left out of the layers where they are at least this share.
_WORTH = 0.1

ROWS_FROM = 2**29
"""Bytes of propagated tables and kept layers from which a batch's rows are made without them."""


def spares_tables(tables: int, *, graphs: int, layers: int, normalize_layers: bool) -> bool:
    """Return whether propagated tables are too large to be made for the rows of a batch.

    Parameters
    ----------
    tables
        Bytes of layer 0, users and items.
    graphs, layers, normalize_layers
        As in :func:`propagate_rows`.

    Examples
    --------
    >>> spares_tables(2**28, graphs=1, layers=3, normalize_layers=False)
    False
    >>> spares_tables(2**28, graphs=1, layers=3, normalize_layers=True)
    True
    """
    return tables * graphs * (1 + layers * normalize_layers) >= ROWS_FROM


@dataclass(frozen=True, eq=False)
class CompactGraph:
    """A graph without its isolated nodes, which receive zeros in every layer but the first.

    Parameters
    ----------
    graph
        Over the nodes that have an edge, numbered in their order.
    users, items
        int64: the numbers of these nodes in the whole graph; None where all are kept.
    user_places, item_places
        int64, of every node of the whole graph: its number here, -1 for an isolated one; None
        where all are kept.
    """

    graph: Adjacency
    users: Tensor | None
    items: Tensor | None
    user_places: Tensor | None
    item_places: Tensor | None

    @classmethod
    def of(cls, graph: Adjacency) -> CompactGraph:
        """Return the graph without isolated nodes, or as it is where they are few.

        Examples
        --------
        >>> import numpy as np, scipy.sparse as sp
        >>> matrix = sp.csr_array(np.array([[0.0, 0.0, 0.0], [0.0, 1.0, 1.0]]))
        >>> compact = CompactGraph.of(Adjacency.from_matrix(matrix))
        >>> compact.users.tolist(), compact.items.tolist(), compact.graph.to_users.shape
        ([1], [1, 2], (1, 2))
        """
        of_users, of_items = (
            torch.diff(half.indptr) > 0 for half in (graph.to_users, graph.to_items)
        )
        kept = int(of_users.sum()) + int(of_items.sum())
        if kept > (1 - _WORTH) * (of_users.numel() + of_items.numel()):
            return cls(graph, None, None, None, None)
        (users, user_places), (items, item_places) = _numbered(of_users), _numbered(of_items)
        return cls(
            Adjacency(
                _without_empty_rows(graph.to_users, of_users, item_places, len(items)),
                _without_empty_rows(graph.to_items, of_items, user_places, len(users)),
            ),
            users,
            items,
            user_places,
            item_places,
        )


def _numbered(there: Tensor) -> tuple[Tensor, Tensor]:
    places = torch.cumsum(there, dim=0) - 1
    return torch.nonzero(there)[:, 0], torch.where(there, places, -1)


def _without_empty_rows(
    matrix: CsrMatrix, there: Tensor, places: Tensor, columns: int
) -> CsrMatrix:
    indptr = torch.cat([matrix.indptr[:1], matrix.indptr[1:][there]])
    indices = places[matrix.indices.long()].to(torch.int32)
    return CsrMatrix(indptr, indices, matrix.values, (len(indptr) - 1, columns), matrix.kernel)


def propagate_rows(
    graphs: Sequence[CompactGraph],
    users: Tensor,
    items: Tensor,
    user_rows: Tensor,
    item_rows: Tensor,
    *,
    layers: int,
    combine: Combination = "mean",
    normalize_layers: bool = False,
) -> tuple[Tensor, Tensor]:
    """Return some rows of what :func:`funnelrec.graph.propagation.propagate` returns.

    No table of results is made, for no graph, and with ``normalize_layers`` the layers are
    computed anew for the gradient instead of being kept: beyond the parameters and their
    gradient, memory is that of the layers of one graph. It takes up to half as long again, for
    an eighth of the memory with four graphs and three layers.

    Parameters
    ----------
    graphs
        B of them.
    users, items
        Layer 0, shapes ``(n_users, d)`` and ``(n_items, d)``, shared by the graphs.
    user_rows, item_rows
        int64, shapes ``(B, n)`` and ``(B, m)``: the rows wanted of each graph; one may come
        several times.
    layers, combine, normalize_layers
        As for ``propagate``.

    Returns
    -------
    tuple of Tensor
        Shapes ``(B, n, d)`` and ``(B, m, d)``.

    Raises
    ------
    ConfigError
        As ``propagate``.
    """
    _check_arguments([compact.graph for compact in graphs], layers, combine, get_args(Combination))
    with _as_given(users):
        outputs: tuple[Tensor, Tensor] = _Rows.apply(  # type: ignore[no-untyped-call]
            tuple(graphs), layers, combine, normalize_layers, user_rows, item_rows, users, items
        )
    return outputs


@torch.no_grad()
def propagated_mean(
    graphs: Sequence[CompactGraph],
    users: Tensor,
    items: Tensor,
    *,
    layers: int,
    combine: Combination = "mean",
    normalize_layers: bool = False,
) -> tuple[Tensor, Tensor]:
    """Return the mean over graphs of what ``propagate`` returns, without a gradient.

    No graph has a table of its own: memory is that of the result and two layers.

    Parameters
    ----------
    graphs, users, items, layers, combine, normalize_layers
        As in :func:`propagate_rows`.

    Returns
    -------
    tuple of Tensor
        Shapes ``(n_users, d)`` and ``(n_items, d)``.

    Raises
    ------
    ConfigError
        As ``propagate``.
    """
    _check_arguments([one.graph for one in graphs], layers, combine, get_args(Combination))
    alone = combine == "last" and layers > 0
    totals = tuple(
        torch.zeros_like(table) if alone else table * len(graphs) for table in (users, items)
    )
    for compact in graphs:
        kept = compact.users, compact.items
        layer = _entering(users, kept[0]), _entering(items, kept[1])
        for number in range(layers):
            layer = _next(compact.graph, *layer)
            if normalize_layers:
                for rows in layer:
                    _normalize_(rows)
            if combine != "last" or number == layers - 1:
                for total, rows, at in zip(totals, layer, kept, strict=True):
                    _leave(total, rows, at)
    share = len(graphs) * (layers + 1 if combine == "mean" else 1)
    return totals[0].div_(share), totals[1].div_(share)


class _Rows(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        graphs: tuple[CompactGraph, ...],
        layers: int,
        combine: Combination,
        normalize_layers: bool,
        user_rows: Tensor,
        item_rows: Tensor,
        users: Tensor,
        items: Tensor,
    ) -> tuple[Tensor, Tensor]:
        out_users = users.new_empty(*user_rows.shape, users.shape[1])
        out_items = items.new_empty(*item_rows.shape, items.shape[1])
        for at, compact in enumerate(graphs):
            totals = out_users[at], out_items[at]
            torch.index_select(users, 0, user_rows[at], out=totals[0])
            torch.index_select(items, 0, item_rows[at], out=totals[1])
            places = (
                _placed(compact.user_places, user_rows[at]),
                _placed(compact.item_places, item_rows[at]),
            )
            layer = _entering(users, compact.users), _entering(items, compact.items)
            for number in range(layers):
                layer = _next(compact.graph, *layer)
                if normalize_layers:
                    for rows in layer:
                        _normalize_(rows)
                if combine == "last" and number < layers - 1:
                    continue
                for total, rows, (place, isolated) in zip(totals, layer, places, strict=True):
                    chosen = _selected(rows, place, isolated)
                    if combine == "last":
                        total.copy_(chosen)
                    else:
                        total += chosen
        if combine == "mean":
            out_users /= layers + 1
            out_items /= layers + 1
        ctx.arguments = (graphs, layers, combine, normalize_layers, user_rows, item_rows)
        ctx.save_for_backward(users, items)
        return out_users, out_items

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        graphs, layers, combine, normalize_layers, user_rows, item_rows = ctx.arguments
        users, items = ctx.saved_tensors
        if torch.is_grad_enabled():
            return (*[None] * 6, *_second(ctx.arguments, users, items, gradients))
        of_users, of_items = gradients
        if combine == "mean":
            of_users, of_items = of_users / (layers + 1), of_items / (layers + 1)
        total_users, total_items = torch.zeros_like(users), torch.zeros_like(items)
        for at, compact in enumerate(graphs):
            wanted = (of_users[at], of_items[at])
            if combine != "last" or not layers:
                total_users.index_add_(0, user_rows[at], wanted[0])
                total_items.index_add_(0, item_rows[at], wanted[1])
            if not layers:
                continue
            places = (
                _placed(compact.user_places, user_rows[at]),
                _placed(compact.item_places, item_rows[at]),
            )
            units = []
            if normalize_layers:
                layer = _entering(users, compact.users), _entering(items, compact.items)
                for _ in range(layers):
                    layer = _next(compact.graph, *layer)
                    units.append([_normalize_(rows) for rows in layer])
                del layer
            sizes = compact.graph.n_users, compact.graph.n_items
            grad = tuple(users.new_zeros(size, users.shape[1]) for size in sizes)
            for number in range(layers):
                if combine != "last" or number == 0:
                    for table, rows, (place, isolated) in zip(grad, wanted, places, strict=True):
                        if not len(table):
                            continue
                        table.index_add_(0, place, rows if isolated is None else rows * ~isolated)
                if normalize_layers:
                    grad = tuple(
                        _normalize_backward(table, *unit)
                        for table, unit in zip(grad, units.pop(), strict=True)
                    )
                grad = _next(compact.graph, *grad)
            _leave(total_users, grad[0], compact.users)
            _leave(total_items, grad[1], compact.items)
        return (*[None] * 6, total_users, total_items)


def _next(graph: Adjacency, users: Tensor, items: Tensor) -> tuple[Tensor, Tensor]:
    """Return a step over the graph; it is its own transpose."""
    return multiply(graph.to_users, items), multiply(graph.to_items, users)


def _entering(table: Tensor, kept: Tensor | None) -> Tensor:
    return table if kept is None else table[kept]


def _leave(table: Tensor, rows: Tensor, kept: Tensor | None) -> None:
    if kept is None:
        table += rows
    else:
        table.index_add_(0, kept, rows)


def _placed(places: Tensor | None, rows: Tensor) -> tuple[Tensor, Tensor | None]:
    """Return where rows stand among the kept nodes, and which do not, shape ``(n, 1)``."""
    if places is None:
        return rows, None
    place = places[rows]
    return place.clamp_min(0), (place < 0)[:, None]


def _selected(table: Tensor, place: Tensor, isolated: Tensor | None) -> Tensor:
    if not len(table):
        return table.new_zeros(len(place), table.shape[1])
    rows = table[place]
    return rows if isolated is None else rows.masked_fill_(isolated, 0)


def _second(
    arguments: tuple[Any, ...], users: Tensor, items: Tensor, gradients: Sequence[Tensor]
) -> tuple[Tensor, ...]:
    """Return gradients that can be differentiated again, from pieces that autograd knows."""
    graphs, layers, combine, normalize_layers, user_rows, item_rows = arguments
    users, items = _leaves((users, items))
    outputs = []
    for at, compact in enumerate(graphs):
        entering = _entering(users, compact.users), _entering(items, compact.items)
        whole = propagate_composed(
            [compact.graph],
            *entering,
            layers=layers,
            combine=combine,
            normalize_layers=normalize_layers,
        )
        # An isolated node has nothing but its layer 0.
        share = 1.0 if not layers or combine == "sum" else 0.0
        share = 1 / (layers + 1) if combine == "mean" else share
        sides = (
            (users, whole[0][0], compact.user_places, user_rows[at]),
            (items, whole[1][0], compact.item_places, item_rows[at]),
        )
        for table, combined, places, rows in sides:
            place, isolated = _placed(places, rows)
            chosen = _selected(combined, place, None)
            if isolated is not None:
                chosen = torch.where(isolated, share * table[rows], chosen)
            outputs.append(chosen)
    of_users, of_items = gradients
    found: tuple[Tensor, ...] = torch.autograd.grad(
        (torch.stack(outputs[::2]), torch.stack(outputs[1::2])),
        (users, items),
        (of_users, of_items),
        create_graph=True,
        materialize_grads=True,
    )
    return found
