"""Products of a constant sparse matrix with embeddings, and stacks of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from funnelrec.common.errors import ConfigError
from funnelrec.graph.adjacency import Adjacency, CsrMatrix
from funnelrec.graph.products import multiply

Combination = Literal["mean", "sum", "last"]
Layering = Combination | Literal["harmonic"]
_COMBINATIONS: tuple[str, ...] = get_args(Combination)


def sparse_product(matrix: CsrMatrix, transposed: CsrMatrix, dense: Tensor) -> Tensor:
    """Return ``matrix @ dense``; the gradient is ``transposed @ gradient``, again a product.

    Parameters
    ----------
    matrix
        Shape ``(m, n)``, constant.
    transposed
        Its transpose, shape ``(n, m)``. Keeping it spares autograd from transposing at every
        step, which costs several times the product itself.
    dense
        Shape ``(n, d)``.

    Returns
    -------
    Tensor
        Shape ``(m, d)``. Can be differentiated any number of times.
    """
    with _as_given(dense):
        result: Tensor = _Product.apply(matrix, transposed, dense)  # type: ignore[no-untyped-call]
    return result


def _as_given(tensor: Tensor) -> torch.autocast:
    """Switch automatic mixed precision off: a sum over many neighbors keeps its precision."""
    return torch.autocast(tensor.device.type, enabled=False)


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, matrix: CsrMatrix, transposed: CsrMatrix, dense: Tensor) -> Tensor:
        ctx.matrix, ctx.transposed = matrix, transposed
        return multiply(matrix, dense)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, None, Tensor]:
        return None, None, sparse_product(ctx.transposed, ctx.matrix, gradients[0])


def row_normalize(rows: Tensor) -> Tensor:
    """Return the rows divided by their Euclidean length; zero rows stay zero.

    Parameters
    ----------
    rows
        Shape ``(n, d)``.
    """
    return rows * inverse_length(rows)


def propagate(
    graphs: Sequence[Adjacency],
    users: Tensor,
    items: Tensor,
    *,
    layers: int,
    combine: Layering = "mean",
    normalize_layers: bool = False,
) -> tuple[Tensor, Tensor]:
    r"""Return the embeddings of every node in every graph after LightGCN propagation.

    .. math:: X_u^{(l+1)} = \hat R X_i^{(l)}, \qquad X_i^{(l+1)} = \hat R^T X_u^{(l)}

    The layers 0 to ``layers`` are combined into one embedding a node. An isolated node has
    zeros in every layer but the first.

    Parameters
    ----------
    graphs
        One graph per behavior, B of them, all of one shape.
    users, items
        Layer 0, shapes ``(n_users, d)`` and ``(n_items, d)``, shared by the graphs.
    layers
        Number of products L, at least 0.
    combine
        ``mean`` over the L + 1 layers (LightGCN), their ``sum``, the ``last`` one, or
        ``harmonic``: their sum with layer l above 0 counted 1 + 1/l times (the BIPN release).
    normalize_layers
        Divide every row of layers 1 to L by its length before it goes on (the encoder of the
        RMBRec release).

    Returns
    -------
    tuple of Tensor
        Shapes ``(B, n_users, d)`` and ``(B, n_items, d)``.

    Raises
    ------
    ConfigError
        If ``layers`` is negative, ``combine`` is unknown or ``graphs`` is empty.

    References
    ----------
    He et al., "LightGCN", SIGIR 2020, Eqs. 3-8.
    """
    _check_arguments(graphs, layers, combine, (*_COMBINATIONS, "harmonic"))
    with _as_given(users):
        outputs: tuple[Tensor, Tensor] = _Propagation.apply(  # type: ignore[no-untyped-call]
            tuple(graphs), layers, combine, normalize_layers, users, items
        )
    return outputs


def propagate_users(
    graphs: Sequence[Adjacency],
    users: Tensor,
    items: Tensor,
    *,
    layers: int,
    combine: Combination = "mean",
) -> Tensor:
    """Return the users' half of what :func:`propagate` returns, for less.

    The items of the last layer reach no user, so one product of each graph is spared, and one of
    its gradient, and no table of items is kept.

    Parameters
    ----------
    graphs, users, items, layers, combine
        See :func:`propagate`.

    Returns
    -------
    Tensor
        Shape ``(B, n_users, d)``.

    Raises
    ------
    ConfigError
        As :func:`propagate`.
    """
    _check_arguments(graphs, layers, combine, _COMBINATIONS)
    with _as_given(users):
        output: Tensor = _UserPropagation.apply(  # type: ignore[no-untyped-call]
            tuple(graphs), layers, combine, users, items
        )
    return output


class _UserPropagation(torch.autograd.Function):
    """As _Propagation below, without the items of the last layer and without normalisation."""

    @staticmethod
    def forward(
        ctx: Any,
        graphs: tuple[Adjacency, ...],
        layers: int,
        combine: Combination,
        users: Tensor,
        items: Tensor,
    ) -> Tensor:
        outputs = users.new_empty(len(graphs), *users.shape)
        for total, graph in zip(outputs, graphs, strict=True):
            total.copy_(users)
            layer_users, layer_items = users, items
            for layer in range(layers):
                following = multiply(graph.to_users, layer_items)
                if layer < layers - 1:
                    layer_items = multiply(graph.to_items, layer_users)
                layer_users = following
                if combine != "last":
                    total += layer_users
            if combine == "last":
                total.copy_(layer_users)
        if combine == "mean":
            outputs /= layers + 1
        ctx.arguments = (graphs, layers, combine)
        ctx.save_for_backward(users, items)
        return outputs

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        graphs, layers, combine = ctx.arguments
        (of_users,) = gradients
        if torch.is_grad_enabled():
            users, items = _leaves(ctx.saved_tensors)
            outputs, _ = propagate_composed(graphs, users, items, layers=layers, combine=combine)
            grads = torch.autograd.grad(
                outputs, (users, items), of_users, create_graph=True, materialize_grads=True
            )
            return None, None, None, *grads
        if combine == "mean":
            of_users = of_users / (layers + 1)
        users, items = ctx.saved_tensors
        total_users, total_items = torch.zeros_like(users), torch.zeros_like(items)
        for gradient, graph in zip(of_users, graphs, strict=True):
            grad_users, grad_items = gradient, torch.zeros_like(items)
            for layer in range(layers - 1, -1, -1):
                following = multiply(graph.to_items, grad_users)
                if layer < layers - 1:
                    grad_users = multiply(graph.to_users, grad_items)
                    if combine != "last":
                        grad_users += gradient
                else:
                    grad_users = gradient if combine != "last" else torch.zeros_like(gradient)
                grad_items = following
            total_users += grad_users
            total_items += grad_items
        return None, None, None, total_users, total_items


def _check_arguments(
    graphs: Sequence[Adjacency], layers: int, combine: str, known: tuple[str, ...]
) -> None:
    if layers < 0:
        raise ConfigError(f"layers must be at least 0, got {layers}.")
    if combine not in known:
        *others, last = map(repr, known)
        raise ConfigError(f"combine must be {', '.join(others)} or {last}, got {combine!r}.")
    if not graphs:
        raise ConfigError("graphs must hold at least one graph, got none.")


def _weight(combine: Layering, layer: int) -> float:
    """Return how often a layer counts in the combination, before any division."""
    return 1 + 1 / layer if combine == "harmonic" and layer else 1.0


def _leaves(saved: Sequence[Tensor]) -> Iterator[Tensor]:
    """Give the tensors in a form that a second derivative can be taken of."""
    for tensor in saved:
        yield tensor if tensor.requires_grad else tensor.detach().requires_grad_()


class _Propagation(torch.autograd.Function):
    """The whole stack with its backward written out.

    Left to autograd, the additions, divisions and copies around the products cost twice the
    products themselves; here each layer touches its rows a handful of times.
    """

    @staticmethod
    def forward(
        ctx: Any,
        graphs: tuple[Adjacency, ...],
        layers: int,
        combine: Layering,
        normalize_layers: bool,
        users: Tensor,
        items: Tensor,
    ) -> tuple[Tensor, Tensor]:
        out_users = users.new_empty(len(graphs), *users.shape)
        out_items = items.new_empty(len(graphs), *items.shape)
        kept: list[Tensor] = []
        for place, graph in enumerate(graphs):
            total_users, total_items = out_users[place].copy_(users), out_items[place].copy_(items)
            layer_users, layer_items = users, items
            for layer in range(1, layers + 1):
                layer_users, layer_items = (
                    multiply(graph.to_users, layer_items),
                    multiply(graph.to_items, layer_users),
                )
                if normalize_layers:
                    kept += [*_normalize_(layer_users), *_normalize_(layer_items)]
                if combine != "last":
                    total_users.add_(layer_users, alpha=_weight(combine, layer))
                    total_items.add_(layer_items, alpha=_weight(combine, layer))
            if combine == "last":
                total_users.copy_(layer_users)
                total_items.copy_(layer_items)
        if combine == "mean":
            out_users /= layers + 1
            out_items /= layers + 1
        ctx.arguments = (graphs, layers, combine, normalize_layers)
        ctx.kept = kept
        ctx.save_for_backward(users, items)
        return out_users, out_items

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        graphs, layers, combine, normalize_layers = ctx.arguments
        of_users, of_items = gradients
        if torch.is_grad_enabled():
            # A second derivative is wanted: rebuild the graph from pieces autograd knows.
            users, items = _leaves(ctx.saved_tensors)
            outputs = propagate_composed(
                graphs,
                users,
                items,
                layers=layers,
                combine=combine,
                normalize_layers=normalize_layers,
            )
            grads = torch.autograd.grad(
                outputs, (users, items), (of_users, of_items), create_graph=True
            )
            return None, None, None, None, *grads
        if combine == "mean":
            of_users, of_items = of_users / (layers + 1), of_items / (layers + 1)
        total_users = torch.zeros_like(of_users[0])
        total_items = torch.zeros_like(of_items[0])
        for place, graph in enumerate(graphs):
            grad_users, grad_items = of_users[place], of_items[place]
            if combine == "harmonic":
                last = _weight(combine, layers)
                grad_users, grad_items = grad_users * last, grad_items * last
            for layer in range(layers - 1, -1, -1):
                if normalize_layers:
                    at = 4 * (place * layers + layer)
                    unit_users, length_users, unit_items, length_items = ctx.kept[at : at + 4]
                    if layer == layers - 1:
                        # Not ours to change: combinations of several layers read it again.
                        grad_users, grad_items = grad_users.clone(), grad_items.clone()
                    _normalize_backward_(grad_users, unit_users, length_users)
                    _normalize_backward_(grad_items, unit_items, length_items)
                grad_users, grad_items = (
                    multiply(graph.to_users, grad_items),
                    multiply(graph.to_items, grad_users),
                )
                if combine != "last":
                    grad_users.add_(of_users[place], alpha=_weight(combine, layer))
                    grad_items.add_(of_items[place], alpha=_weight(combine, layer))
            total_users += grad_users
            total_items += grad_items
        return None, None, None, None, total_users, total_items


def _normalize_(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Divide rows by their length in place; return them and the inverse lengths."""
    inverse = inverse_length(rows)
    return rows.mul_(inverse), inverse


def _normalize_backward_(gradient: Tensor, unit: Tensor, inverse: Tensor) -> Tensor:
    """Turn the gradient of rows divided by their length into that of the rows, in place."""
    along = torch.linalg.vecdot(gradient, unit)[:, None]
    return gradient.addcmul_(unit, along, value=-1).mul_(inverse)


def inverse_length(rows: Tensor) -> Tensor:
    """Return what :func:`row_normalize` multiplies rows by: one over the length, 0 for zero rows.

    Parameters
    ----------
    rows
        Shape ``(..., d)``; the result has the shape ``(..., 1)``.
    """
    length = torch.linalg.vector_norm(rows, dim=-1, keepdim=True)
    inverse: Tensor = (length > 0) / length.clamp_min(torch.finfo(rows.dtype).tiny ** 0.5)
    return inverse


def propagate_composed(
    graphs: Sequence[Adjacency],
    users: Tensor,
    items: Tensor,
    *,
    layers: int,
    combine: Layering = "mean",
    normalize_layers: bool = False,
) -> tuple[Tensor, Tensor]:
    """Return what :func:`propagate` returns, from pieces that autograd takes apart.

    Slower; serves second derivatives and as the readable twin in tests.
    """
    combined = [
        _propagate_one(graph, users, items, layers, combine, normalize_layers) for graph in graphs
    ]
    return torch.stack([u for u, _ in combined]), torch.stack([i for _, i in combined])


def _propagate_one(
    graph: Adjacency,
    users: Tensor,
    items: Tensor,
    layers: int,
    combine: Layering,
    normalize_layers: bool,
) -> tuple[Tensor, Tensor]:
    total_users, total_items = users, items
    for layer in range(1, layers + 1):
        users, items = (
            sparse_product(graph.to_users, graph.to_items, items),
            sparse_product(graph.to_items, graph.to_users, users),
        )
        if normalize_layers:
            users, items = row_normalize(users), row_normalize(items)
        if combine != "last":
            weight = _weight(combine, layer)
            total_users, total_items = total_users + weight * users, total_items + weight * items
    if combine == "last":
        return users, items
    if combine == "mean":
        return total_users / (layers + 1), total_items / (layers + 1)
    return total_users, total_items
