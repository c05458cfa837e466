from __future__ import annotations

from typing import Any, get_args

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from funnelrec.common.errors import ConfigError
from funnelrec.graph import Adjacency, Combination, propagate
from funnelrec.graph.propagation import propagate_composed
from funnelrec.graph.rows import CompactGraph, _Distinct, propagate_rows, propagated_mean


@st.composite
def cases(draw: st.DrawFn) -> tuple[list[Adjacency], list[Tensor], list[Tensor], dict[str, Any]]:
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    n_users, n_items = draw(st.integers(1, 12)), draw(st.integers(1, 12))
    # Densities down to 0 leave users, items and whole graphs isolated; 1 leaves none.
    densities = draw(st.lists(st.sampled_from([0.0, 0.05, 0.3, 1.0]), min_size=1, max_size=4))
    graphs = [
        Adjacency.from_matrix(
            sp.csr_array((torch.rand(n_users, n_items, generator=generator) < density).numpy()),
            dtype=np.float64,
        )
        for density in densities
    ]
    tables = [
        torch.randn(n, 3, generator=generator, dtype=torch.float64, requires_grad=True)
        for n in (n_users, n_items)
    ]
    rows = [
        # Few, and so many that each comes several times.
        torch.randint(n, (len(graphs), draw(st.integers(0, 40))), generator=generator)
        for n in (n_users, n_items)
    ]
    options = {
        "layers": draw(st.integers(0, 4)),
        "combine": draw(st.sampled_from(get_args(Combination))),
        "normalize_layers": draw(st.booleans()),
    }
    return graphs, tables, rows, options


def of_whole(whole: tuple[Tensor, Tensor], rows: list[Tensor]) -> list[Tensor]:
    return [
        torch.stack([table[number] for table, number in zip(side, wanted, strict=True)])
        for side, wanted in zip(whole, rows, strict=True)
    ]


def with_layer_0(found: list[Tensor], tables: list[Tensor], rows: list[Tensor]) -> list[Tensor]:
    return [*found, *(table[wanted[-1]] for table, wanted in zip(tables, rows, strict=True))]


@settings(max_examples=100, deadline=None)
@given(cases(), st.booleans(), st.booleans())
def test_rows_and_gradients_are_those_of_the_whole_propagation(
    case: tuple[list[Adjacency], list[Tensor], list[Tensor], dict[str, Any]],
    compact: bool,
    keep: bool,
) -> None:
    graphs, tables, rows, options = case
    expected = with_layer_0(of_whole(propagate(graphs, *tables, **options), rows), tables, rows)
    given = [
        CompactGraph.of(graph) if compact else CompactGraph(graph, None, None, None, None)
        for graph in graphs
    ]
    found = propagate_rows(given, *tables, *rows, **options, keep_layers=keep)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs)

    def gradient(outputs: Any) -> tuple[Tensor, ...]:
        weights = [
            torch.cos(torch.arange(out.numel(), dtype=out.dtype)).reshape(out.shape)
            for out in outputs
        ]
        total = sum((out * weight).sum() for out, weight in zip(outputs, weights, strict=True))
        return torch.autograd.grad(
            total, tables, materialize_grads=True, allow_unused=True, retain_graph=True
        )

    for ours, theirs in zip(gradient(found), gradient(expected), strict=True):
        torch.testing.assert_close(ours, theirs)
    # Where nothing asks for layer 0, or for anything else.
    for some in (slice(0, 2), slice(2, 4), slice(1, 2)):
        for ours, theirs in zip(gradient(found[some]), gradient(expected[some]), strict=True):
            torch.testing.assert_close(ours, theirs)


@settings(max_examples=25, deadline=None)
@given(cases())
def test_second_derivatives_are_those_of_the_composed_propagation(
    case: tuple[list[Adjacency], list[Tensor], list[Tensor], dict[str, Any]],
) -> None:
    graphs, tables, rows, options = case
    users, items = tables

    def curvature(outputs: Any) -> tuple[Tensor, ...]:
        total = sum((out**3).sum() for out in outputs)
        slopes = torch.autograd.grad(
            total, tables, create_graph=True, materialize_grads=True, allow_unused=True
        )
        bent = torch.stack([(slope**2).sum() for slope in slopes]).sum()
        # Without a layer a slope depends on no more than its own table.
        nothing = torch.stack([table.sum() for table in tables]).sum() * 0
        return torch.autograd.grad(bent + nothing, tables)

    whole = of_whole(propagate_composed(graphs, users, items, **options), rows)
    expected = with_layer_0(whole, tables, rows)
    found = propagate_rows([CompactGraph.of(graph) for graph in graphs], *tables, *rows, **options)
    for ours, theirs in zip(curvature(found), curvature(expected), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-9)


@settings(max_examples=60, deadline=None)
@given(cases())
def test_the_mean_over_graphs_is_that_of_the_whole_propagation(
    case: tuple[list[Adjacency], list[Tensor], list[Tensor], dict[str, Any]],
) -> None:
    graphs, (users, items), _, options = case
    expected = [side.mean(dim=0) for side in propagate(graphs, users, items, **options)]
    compact = [CompactGraph.of(graph) for graph in graphs]
    found = propagated_mean(compact, users, items, **options)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs.detach())
        assert not ours.requires_grad


def test_rows_wanted_many_times_are_made_once_and_others_as_they_come() -> None:
    many = _Distinct.of(6, torch.tensor([4, 1, 4, 4, 1]))
    assert many.rows.tolist() == [1, 4]
    # Row 4 was wanted at 0, 2 and 3.
    assert many.taken(torch.tensor([[1.0], [2.0], [4.0], [8.0], [16.0]])).tolist() == [[18], [13]]
    for few in ([4, 1, 0], [4]):
        assert _Distinct.of(6, torch.tensor(few)).rows.tolist() == few
    assert _Distinct.of(100, torch.tensor([4, 4, 4])).rows.tolist() == [4, 4, 4]


def test_isolated_nodes_are_left_out_only_where_they_are_many() -> None:
    full = Adjacency.from_matrix(sp.csr_array(np.ones((4, 5))))
    assert CompactGraph.of(full).graph is full
    matrix = np.zeros((40, 50))
    matrix[3, [7, 9]] = 1
    few = CompactGraph.of(Adjacency.from_matrix(sp.csr_array(matrix)))
    assert few.graph.to_users.shape == (1, 2)
    assert few.graph.to_items.shape == (2, 1)
    assert few.users is not None
    assert few.users.tolist() == [3]


def test_wrong_arguments_are_refused() -> None:
    compact = CompactGraph.of(Adjacency.from_matrix(sp.csr_array(np.ones((2, 2)))))
    table, rows = torch.ones(2, 3), torch.zeros((1, 1), dtype=torch.int64)
    with pytest.raises(ConfigError, match="layers must be at least 0"):
        propagate_rows([compact], table, table, rows, rows, layers=-1)
    with pytest.raises(ConfigError, match="graphs must hold at least one"):
        propagate_rows([], table, table, rows, rows, layers=1)
