"""Propagation where only some rows are wanted: the memory of one graph, whatever their number."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
import scipy.sparse as sp
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
    _normalize_backward_,
    propagate_composed,
)

# Wanted rows are taken once each where they are at least this share of their table and so many of
# them remain, at most: fewer hardly repeat, and what repeats little is not worth the numbering.
_MANY, _DISTINCT = 0.25, 0.6

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
    keep_layers: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return some rows of what :func:`funnelrec.graph.propagation.propagate` returns, and layer 0.

    No table of results is made, for no graph, and on a CPU the last layer is made for the rows
    alone where they have less than half of the edges: beyond the parameters and their gradient,
    memory is that of the layers of one graph.

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
    keep_layers
        Keep the layers of every graph for the gradient of ``normalize_layers``, instead of
        computing them anew: faster, for the memory of them all.

    Returns
    -------
    tuple of Tensor
        Shapes ``(B, n, d)`` and ``(B, m, d)``; then the rows of layer 0 that the last graph's
        numbers name, shapes ``(n, d)`` and ``(m, d)``. Indexing the tables themselves gives the
        same for a gradient table of its own each time.

    Raises
    ------
    ConfigError
        As ``propagate``.
    """
    _check_arguments([compact.graph for compact in graphs], layers, combine, get_args(Combination))
    with _as_given(users):
        outputs: tuple[Tensor, Tensor, Tensor, Tensor] = _Rows.apply(  # type: ignore[no-untyped-call]
            tuple(graphs),
            _Plan(layers, combine, normalize_layers, keep_layers and normalize_layers),
            user_rows,
            item_rows,
            users,
            items,
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


@dataclass(frozen=True)
class _Plan:
    layers: int
    combine: Combination
    normalize: bool
    keep: bool

    @property
    def share(self) -> int:
        """What the sum of the layers is divided by."""
        return self.layers + 1 if self.combine == "mean" else 1

    def counts(self, number: int) -> bool:
        """Return whether a layer above 0, by its number from 0, is part of the result."""
        return self.combine != "last" or number == self.layers - 1


@dataclass(frozen=True, eq=False)
class _Ends:
    """Where the wanted rows of one side of a graph stand in its layers.

    Parameters
    ----------
    places, isolated
        Of each wanted row among the kept nodes, and which of them are none.
    rows, numbers, matrix
        The distinct ones among the places, the number of each wanted row among these, and their
        rows of the graph; without them the last layer is made whole.
    """

    places: Tensor
    isolated: Tensor | None
    rows: Tensor | None = None
    numbers: Tensor | None = None
    matrix: CsrMatrix | None = None

    @classmethod
    def of(cls, half: CsrMatrix, found: Tensor | None, wanted: Tensor) -> _Ends:
        places, isolated = _placed(found, wanted)
        if places.is_cuda or not half.shape[0]:
            return cls(places, isolated)
        there = torch.zeros(half.shape[0], dtype=torch.bool)
        there[places] = True
        rows, numbers = _numbered(there)
        if 2 * int(half.indptr.diff()[rows].sum()) >= half.nnz:
            return cls(places, isolated)
        return cls(places, isolated, rows, numbers[places], half.taking(rows))

    def selected(self, layer: Tensor, *, last: bool) -> Tensor:
        """Return the wanted rows of a layer."""
        places = self.numbers if last and self.numbers is not None else self.places
        return _selected(layer, places, self.isolated)

    def merged(self, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """Return the gradient of wanted rows and where it belongs, each place once if possible."""
        if self.isolated is not None:
            gradient = gradient * ~self.isolated
        if self.rows is None or self.numbers is None:
            return gradient, self.places
        merged = gradient.new_zeros(len(self.rows), gradient.shape[1])
        return merged.index_add_(0, self.numbers, gradient), self.rows


@dataclass(frozen=True, eq=False)
class _Distinct:
    """Wanted rows of one side, each once where many come several times.

    Parameters
    ----------
    rows
        What is made of a propagation.
    numbers
        Of each wanted row, its place among these; None where they are the wanted rows themselves.
    gathering
        Shape ``(len(rows), len(wanted))``: which wanted rows belong to a row. Its product adds up
        one row after the other; ``index_add_`` takes up to twice as long.
    """

    rows: Tensor
    numbers: Tensor | None = None
    gathering: CsrMatrix | None = None

    @classmethod
    def of(cls, size: int, wanted: Tensor) -> _Distinct:
        # On a device the host would have to wait for their number.
        if wanted.is_cuda or len(wanted) < _MANY * size:
            return cls(wanted)
        there = torch.zeros(size, dtype=torch.bool)
        there[wanted] = True
        rows, numbers = _numbered(there)
        if len(rows) > _DISTINCT * len(wanted):
            return cls(wanted)
        return cls(rows, numbers[wanted], _gathering(numbers[wanted], len(rows)))

    def made(self, table: Tensor, out: Tensor) -> Tensor:
        """Return the rows of a table, in ``out`` where they are the wanted ones themselves."""
        if self.numbers is None:
            return torch.index_select(table, 0, self.rows, out=out)
        return table.index_select(0, self.rows)

    def give(self, made: Tensor, out: Tensor) -> None:
        """Write the wanted rows of what was made."""
        if self.numbers is not None:
            torch.index_select(made, 0, self.numbers, out=out)
        elif out is not made:
            out.copy_(made)

    def taken(self, gradient: Tensor) -> Tensor:
        """Return the gradient of what was made from that of the wanted rows."""
        if self.gathering is None:
            return gradient
        return multiply(self.gathering, gradient)


def _gathering(numbers: Tensor, rows: int) -> CsrMatrix:
    spread = sp.csr_array(
        (np.ones(len(numbers), np.float32), numbers.numpy(), np.arange(len(numbers) + 1)),
        shape=(len(numbers), rows),
    )
    return CsrMatrix.from_scipy(spread.T.tocsr())


class _Rows(torch.autograd.Function):
    """As propagation._Propagation, for some rows.

    Both directions visit the tables as seldom as they can: layers are never added up whole, and
    the gradient of the wanted rows is added to the tables that the products make anyway.
    """

    @staticmethod
    def forward(
        ctx: Any,
        graphs: tuple[CompactGraph, ...],
        plan: _Plan,
        user_rows: Tensor,
        item_rows: Tensor,
        users: Tensor,
        items: Tensor,
    ) -> tuple[Tensor, ...]:
        tables = users, items
        outputs = [
            table.new_empty(*rows.shape, table.shape[1])
            for table, rows in zip(tables, (user_rows, item_rows), strict=True)
        ]
        firsts = [torch.empty_like(output[-1]) for output in outputs]
        ctx.distinct, ctx.ends, ctx.kept = [], [], []
        for at, compact in enumerate(graphs):
            distinct = (
                _Distinct.of(len(users), user_rows[at]),
                _Distinct.of(len(items), item_rows[at]),
            )
            places = [output[at] for output in outputs]
            totals = [
                side.made(table, place)
                for side, table, place in zip(distinct, tables, places, strict=True)
            ]
            if at == len(graphs) - 1:
                for side, total, first in zip(distinct, totals, firsts, strict=True):
                    side.give(total, first)
            ctx.distinct.append(distinct)
            if plan.layers:
                ends = (
                    _Ends.of(compact.graph.to_users, compact.user_places, distinct[0].rows),
                    _Ends.of(compact.graph.to_items, compact.item_places, distinct[1].rows),
                )
                units: list[list[tuple[Tensor, Tensor]]] = []
                for number, layer in enumerate(_layers(compact, plan, *tables, ends, units)):
                    if plan.counts(number):
                        for total, rows, end in zip(totals, layer, ends, strict=True):
                            chosen = end.selected(rows, last=number == plan.layers - 1)
                            if plan.combine == "last":
                                total.copy_(chosen)
                            else:
                                total += chosen
                    if not plan.keep:
                        units.clear()
                ctx.ends.append(ends)
                ctx.kept.append(units)
            for side, total, place in zip(distinct, totals, places, strict=True):
                side.give(total if plan.share == 1 else total.div_(plan.share), place)
        ctx.set_materialize_grads(False)
        ctx.arguments = (graphs, plan, user_rows, item_rows)
        ctx.save_for_backward(users, items)
        return (*outputs, *firsts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        graphs, plan, *_ = ctx.arguments
        users, items = ctx.saved_tensors
        if torch.is_grad_enabled():
            return (None, None, None, None, *_second(ctx.arguments, users, items, gradients))
        sums: list[Tensor | None] = [None, None]
        own: list[list[Tensor | None]] = []
        for at, compact in enumerate(graphs):
            # Of the rows that were made, each once.
            wanted = [
                None if gradient is None else side.taken(gradient[at]) / plan.share
                for gradient, side in zip(gradients[:2], ctx.distinct[at], strict=True)
            ]
            own.append(wanted)
            if plan.layers:
                grad = _pushed_back(
                    compact,
                    plan,
                    (users, items),
                    [
                        table.new_zeros(len(side.rows), table.shape[1]) if found is None else found
                        for found, side, table in zip(
                            wanted, ctx.distinct[at], (users, items), strict=True
                        )
                    ],
                    ctx.ends[at],
                    ctx.kept[at],
                )
                for side, kept in enumerate((compact.users, compact.items)):
                    whole = sums[side]
                    if whole is None and kept is None:
                        sums[side] = grad[side]
                        continue
                    if whole is None:
                        sums[side] = whole = torch.zeros_like((users, items)[side])
                    _leave(whole, grad[side], kept)
                del grad
        totals = [
            torch.zeros_like(table) if found is None else found
            for found, table in zip(sums, (users, items), strict=True)
        ]
        of_layer_0 = plan.combine != "last" or not plan.layers
        for number, (total, first) in enumerate(zip(totals, gradients[2:], strict=True)):
            for at in range(len(graphs)):
                distinct = ctx.distinct[at][number]
                part = own[at][number] if of_layer_0 else None
                if at == len(graphs) - 1 and first is not None:
                    of_first = distinct.taken(first)
                    part = of_first if part is None else part + of_first
                if part is not None:
                    total.index_add_(0, distinct.rows, part)
        return (None, None, None, None, *totals)


def _layers(
    compact: CompactGraph,
    plan: _Plan,
    users: Tensor,
    items: Tensor,
    ends: tuple[_Ends, _Ends],
    units: list[list[tuple[Tensor, Tensor]]],
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the layers above 0 of one graph; add what a gradient needs of each to ``units``."""
    layer = _entering(users, compact.users), _entering(items, compact.items)
    for number in range(plan.layers):
        if number < plan.layers - 1:
            layer = _next(compact.graph, *layer)
        else:
            layer = (
                multiply(ends[0].matrix or compact.graph.to_users, layer[1]),
                multiply(ends[1].matrix or compact.graph.to_items, layer[0]),
            )
        if plan.normalize:
            units.append([_normalize_(rows) for rows in layer])
        yield layer


def _pushed_back(
    compact: CompactGraph,
    plan: _Plan,
    tables: tuple[Tensor, Tensor],
    wanted: Sequence[Tensor],
    ends: tuple[_Ends, _Ends],
    kept: list[list[tuple[Tensor, Tensor]]],
) -> tuple[Tensor, Tensor]:
    """Return the gradient that one graph's layers above 0 give to layer 0."""
    graph, units = compact.graph, list(kept)
    if plan.normalize and not plan.keep:
        for _ in _layers(compact, plan, *tables, ends, units):
            pass
    merged = [end.merged(rows) for end, rows in zip(ends, wanted, strict=True)]
    grad: tuple[Tensor, ...] = ()
    for number in range(plan.layers - 1, -1, -1):
        if number == plan.layers - 1:
            grad = tuple(
                _placed_alone(half.shape[0], *own) if end.rows is None else own[0].clone()
                for half, own, end in zip(
                    (graph.to_users, graph.to_items), merged, ends, strict=True
                )
            )
        elif plan.counts(number):
            for table, (rows, places) in zip(grad, merged, strict=True):
                if len(table):
                    table.index_add_(0, places, rows)
        if plan.normalize:
            for table, unit in zip(grad, units.pop(), strict=True):
                _normalize_backward_(table, *unit)
        if number == plan.layers - 1:
            of_users, of_items = ends[0].matrix, ends[1].matrix
            grad = (
                multiply(graph.to_users if of_items is None else of_items.transposed(), grad[1]),
                multiply(graph.to_items if of_users is None else of_users.transposed(), grad[0]),
            )
        else:
            grad = _next(graph, *grad)
    return grad[0], grad[1]


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


def _placed_alone(size: int, rows: Tensor, places: Tensor) -> Tensor:
    table = rows.new_zeros(size, rows.shape[1])
    return table.index_add_(0, places, rows) if size else table


def _selected(table: Tensor, place: Tensor, isolated: Tensor | None) -> Tensor:
    if not len(table):
        return table.new_zeros(len(place), table.shape[1])
    rows = table.index_select(0, place)
    return rows if isolated is None else rows.masked_fill_(isolated, 0)


def _second(
    arguments: tuple[Any, ...],
    users: Tensor,
    items: Tensor,
    gradients: Sequence[Tensor | None],
) -> tuple[Tensor, ...]:
    """Return gradients that can be differentiated again, from pieces that autograd knows."""
    graphs, plan, user_rows, item_rows = arguments
    users, items = _leaves((users, items))
    outputs = []
    for at, compact in enumerate(graphs):
        entering = _entering(users, compact.users), _entering(items, compact.items)
        whole = propagate_composed(
            [compact.graph],
            *entering,
            layers=plan.layers,
            combine=plan.combine,
            normalize_layers=plan.normalize,
        )
        # An isolated node has nothing but its layer 0.
        share = 1.0 if not plan.layers or plan.combine == "sum" else 0.0
        share = 1 / (plan.layers + 1) if plan.combine == "mean" else share
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
    made = (
        torch.stack(outputs[::2]),
        torch.stack(outputs[1::2]),
        users[user_rows[-1]],
        items[item_rows[-1]],
    )
    asked = [
        (output, given) for output, given in zip(made, gradients, strict=True) if given is not None
    ]
    found: tuple[Tensor, ...] = torch.autograd.grad(
        [output for output, _ in asked],
        (users, items),
        [given for _, given in asked],
        create_graph=True,
        materialize_grads=True,
    )
    return found
