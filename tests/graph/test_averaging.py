from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import scipy.sparse as sp
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import Tensor

from funnelrec.graph.adjacency import Adjacency
from funnelrec.graph.averaging import average, residual

COUNTS = arrays(
    np.float64,
    st.tuples(st.integers(1, 6), st.integers(1, 6)),
    elements=st.integers(0, 3).map(float),
)


def graph_of(counts: npt.NDArray[np.float64]) -> Adjacency:
    matrix = sp.csr_array(counts)
    return Adjacency.from_matrix(matrix, normalization="none", dtype=np.float64)


def whole(counts: npt.NDArray[np.float64]) -> Tensor:
    """Return the row-normalised matrix of all nodes."""
    users, items = counts.shape
    full = np.zeros((users + items, users + items))
    full[:users, users:], full[users:, :users] = counts, counts.T
    sums = full.sum(axis=1, keepdims=True)
    return torch.from_numpy(np.divide(full, sums, out=np.zeros_like(full), where=sums > 0))


def tables(counts: npt.NDArray[Any]) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    users, items = (
        torch.randn(rows, 3, dtype=torch.float64, generator=generator).requires_grad_()
        for rows in counts.shape
    )
    return users, items


@given(counts=COUNTS)
def test_a_node_hears_the_mean_of_its_neighbors(counts: npt.NDArray[np.float64]) -> None:
    users, items = tables(counts)
    found = torch.cat(average(graph_of(counts), users, items))
    expected = whole(counts) @ torch.cat([users, items])
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)
    weight = torch.linspace(-1, 1, found.numel(), dtype=torch.float64).view_as(found)
    torch.testing.assert_close(
        torch.autograd.grad((found * weight).sum(), (users, items)),
        torch.autograd.grad((expected * weight).sum(), (users, items)),
        rtol=1e-12,
        atol=1e-14,
    )


@given(counts=COUNTS, layers=st.integers(0, 3))
def test_residual_layers_are_their_definition(counts: npt.NDArray[np.float64], layers: int) -> None:
    users, items = tables(counts)
    (total, last) = residual(graph_of(counts), users, items, layers=layers)
    matrix, layer = whole(counts), torch.cat([users, items])
    stack = [layer]
    for _ in range(layers):
        layer = matrix @ layer + layer
        stack.append(layer)
    torch.testing.assert_close(torch.cat(total), torch.stack(stack).sum(dim=0))
    torch.testing.assert_close(torch.cat(last), layer)


@pytest.mark.parametrize("layers", [1, 3])
def test_ones_double_where_there_is_an_edge(layers: int) -> None:
    graph = graph_of(np.array([[2.0, 1.0, 0.0], [0.0, 0.0, 0.0]]))
    ones = torch.ones(2, 1, dtype=torch.float64), torch.ones(3, 1, dtype=torch.float64)
    total, last = residual(graph, *ones, layers=layers)
    assert last[0].flatten().tolist() == [2.0**layers, 1.0]
    assert last[1].flatten().tolist() == [2.0**layers, 2.0**layers, 1.0]
    assert total[0].flatten().tolist() == [2.0 ** (layers + 1) - 1, layers + 1.0]
