"""Slow, dense, obvious counterparts of what the gradient models compute, in float64."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor, nn

from funnelrec.data.interactions import Interactions
from funnelrec.graph.adjacency import Adjacency, Normalization
from funnelrec.models.gradient import GradientNetwork, Graphs

NetworkT = TypeVar("NetworkT", bound=GradientNetwork)


def dense(pairs: Interactions) -> Tensor:
    """Return the binary matrix."""
    matrix = torch.zeros(pairs.shape, dtype=torch.float64)
    for user, item in zip(pairs.users.tolist(), pairs.items.tolist(), strict=True):
        matrix[user, item] = 1
    return matrix


def dense_lightgcn(
    matrix: Tensor,
    users: Tensor,
    items: Tensor,
    *,
    layers: int,
    combine: str = "mean",
    normalize: bool = False,
) -> tuple[Tensor, Tensor]:
    """Return LightGCN's embeddings from the whole (M + N) x (M + N) matrix."""
    n_users = len(users)
    whole = torch.zeros(sum(matrix.shape), sum(matrix.shape), dtype=torch.float64)
    whole[:n_users, n_users:] = matrix
    whole[n_users:, :n_users] = matrix.T
    degrees = whole.sum(dim=1)
    scale = torch.where(degrees > 0, degrees.clamp_min(1).rsqrt(), 0.0)
    whole = scale[:, None] * whole * scale[None, :]
    stack = [torch.cat([users, items])]
    for _ in range(layers):
        following = whole @ stack[-1]
        if normalize:
            squares = following.square().sum(dim=1, keepdim=True)
            following = following / torch.where(squares > 0, squares, 1.0).sqrt()
        stack.append(following)
    result = {
        "mean": torch.stack(stack).mean(dim=0),
        "sum": torch.stack(stack).sum(dim=0),
        "last": stack[-1],
    }[combine]
    return result[:n_users], result[n_users:]


def minus_log_sigmoid(gap: Tensor) -> Tensor:
    """Return -ln(1 / (1 + e^-gap))."""
    return torch.log(1 + torch.exp(-gap))


def half_square(row: Tensor) -> Tensor:
    """Return half the squared length."""
    return row.square().sum() / 2


def in_double(network: NetworkT, normalization: Normalization = "symmetric") -> NetworkT:
    """Return the network with parameters and graphs in float64, the latter made of ones."""
    for module in network.modules():
        if isinstance(module, Graphs):
            module._graphs = [widened(graph, normalization) for graph in module._graphs]
    return network.double()


def widened(graph: Adjacency, normalization: Normalization = "symmetric") -> Adjacency:
    """Return a plain graph built anew in float64."""
    half = graph.to_users
    ones = np.ones(half.nnz)
    arrays = (ones, half.indices.numpy(), half.indptr.numpy())
    return Adjacency.from_matrix(
        sp.csr_array(arrays, shape=half.shape), normalization=normalization, dtype=np.float64
    )


def assert_learns(network: nn.Module, loss: Tensor) -> None:
    """Check that every parameter gets a finite gradient that is not zero."""
    network.zero_grad()
    torch.autograd.backward(loss)
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 0, name


def assert_same_with_gradients(
    network: nn.Module,
    found: Mapping[str, Tensor],
    expected: Mapping[str, Tensor],
    *,
    values: tuple[float, float] = (1e-10, 1e-13),
    rtol: float = 1e-7,
    atol: float = 1e-11,
) -> None:
    """Check every term and its gradient in every parameter against the slow twin, in float64.

    ``values`` are the tolerances of the terms, relative and absolute, ``rtol`` and ``atol`` those
    of gradients: what rounding may leave of an entry whose parts cancel.
    """
    assert set(found) == set(expected)
    parameters = [part for part in network.parameters() if part.requires_grad]
    for name, term in expected.items():
        torch.testing.assert_close(found[name], term, rtol=values[0], atol=values[1])
        slopes = [
            torch.autograd.grad(
                part, parameters, retain_graph=True, allow_unused=True, materialize_grads=True
            )
            if part.requires_grad
            else tuple(torch.zeros_like(parameter) for parameter in parameters)
            for part in (found[name], term)
        ]
        torch.testing.assert_close(slopes[0], slopes[1], rtol=rtol, atol=atol)
