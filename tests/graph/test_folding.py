from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from funnelrec.graph.adjacency import Adjacency
from funnelrec.graph.folding import FoldedCombination, FrozenItems
from funnelrec.graph.propagation import propagate_composed
from funnelrec.testing import sparse_matrices


@settings(max_examples=40)
@given(
    matrix=sparse_matrices(),
    layers=st.integers(0, 4),
    combine=st.sampled_from(["mean", "sum", "last", "mean of later"]),
    normalize=st.booleans(),
)
def test_users_of_the_graph_come_out_as_propagation_has_them(
    matrix: sp.csr_array, layers: int, combine: FoldedCombination, normalize: bool
) -> None:
    matrix = sp.csr_array(matrix, copy=True)
    matrix.data[:] = 1
    graph = Adjacency.from_matrix(matrix, dtype=np.float64)
    generator = torch.Generator().manual_seed(3)
    users, items = (
        torch.randn(size, 3, generator=generator, dtype=torch.float64) for size in matrix.shape
    )
    frozen = FrozenItems.of(
        graph,
        users,
        items,
        layers=layers,
        combine=combine,
        normalize_layers=normalize,
    )
    half = graph.to_users
    found = frozen.at(half.indptr, half.indices).users(users)
    if combine == "mean of later":
        total, _ = propagate_composed(
            [graph], users, items, layers=layers, combine="sum", normalize_layers=normalize
        )
        wanted = (total[0] - users) / layers if layers else users
    else:
        wanted = propagate_composed(
            [graph], users, items, layers=layers, combine=combine, normalize_layers=normalize
        )[0][0]
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)


def test_degrees_are_the_users_own_and_the_items_of_the_graph() -> None:
    # Item 0 has two edges, item 1 one, item 2 none; the new user has all three.
    graph = Adjacency.from_matrix(sp.csr_array(np.array([[1.0, 1.0, 0.0], [1.0, 0.0, 0.0]])))
    frozen = FrozenItems.of(graph, torch.zeros(2, 3), torch.eye(3), layers=1, combine="sum")
    edges = torch.tensor([0, 3, 3]), torch.tensor([0, 1, 2])
    found = frozen.at(*edges).users(torch.zeros(2, 3))
    assert found[0].tolist() == pytest.approx([1 / 6**0.5, 1 / 3**0.5, 1 / 3**0.5])
    assert found[1].tolist() == [0, 0, 0]


@settings(max_examples=40)
@given(
    matrix=sparse_matrices(),
    layers=st.integers(0, 3),
    combine=st.sampled_from(["mean", "sum", "last", "mean of later"]),
    normalize=st.booleans(),
    edges=st.sets(st.integers(0, 30), max_size=5),
)
def test_a_user_who_joins_is_heard_by_its_own_items(
    matrix: sp.csr_array,
    layers: int,
    combine: FoldedCombination,
    normalize: bool,
    edges: set[int],
) -> None:
    matrix = sp.csr_array(matrix, copy=True)
    matrix.data[:] = 1
    n_items = matrix.shape[1]
    touched = sorted({edge % n_items for edge in edges})
    generator = torch.Generator().manual_seed(3)
    users, items = (
        torch.randn(size, 3, generator=generator, dtype=torch.float64) for size in matrix.shape
    )
    own = torch.randn(1, 3, generator=generator, dtype=torch.float64)
    graph = Adjacency.from_matrix(matrix, dtype=np.float64)
    frozen = FrozenItems.of(
        graph, users, items, layers=layers, combine=combine, normalize_layers=normalize
    )
    # A user of the graph beside it, who does not join.
    indptr = torch.tensor([0, len(touched), 2 * len(touched)])
    indices = torch.tensor([*touched, *touched], dtype=torch.int64)
    joins = torch.tensor([1.0, 0.0], dtype=torch.float64)
    found, moved = frozen.at(indptr, indices).joined(own.repeat(2, 1), joins)
    assert not moved[len(touched) :].any()
    alone = frozen.at(indptr[:2], indices[: len(touched)]).users(own)
    torch.testing.assert_close(found[1:], alone, rtol=1e-9, atol=1e-9)

    # The definition, written out for one user: what others hear stays as it was.
    def unit(row: torch.Tensor) -> torch.Tensor:
        return row / row.norm().clamp_min(1e-300) if normalize else row

    degrees = dict(zip(touched, matrix.sum(axis=0)[touched].tolist(), strict=True))
    share = {item: ((degrees[item] + 1) * len(touched)) ** -0.5 for item in touched}
    mine, at, moves = [own[0]], {item: items[item] for item in touched}, []
    for layer in range(1, layers + 1):
        before = {item: frozen.rows[item][layer] for item in touched}
        after = {
            item: unit(
                (degrees[item] / (degrees[item] + 1)) ** 0.5 * before[item] + share[item] * mine[-1]
            )
            for item in touched
        }
        heard = sum((share[item] * at[item] for item in touched), torch.zeros_like(own[0]))
        mine.append(unit(heard))
        moves.append({item: after[item] - unit(before[item]) for item in touched})
        at = after
    parts = {"sum": 1, "mean": layers + 1, "mean of later": max(layers, 1)}
    if combine == "last" or not layers:
        wanted, chosen, divisor = mine[-1], moves[-1:], 1
    else:
        divisor = parts[combine]
        wanted = torch.stack(mine[combine == "mean of later" :]).sum(0) / divisor
        chosen = moves
    torch.testing.assert_close(found[0], wanted, rtol=1e-9, atol=1e-9)
    for place, item in enumerate(touched):
        total = sum((move[item] for move in chosen), torch.zeros_like(own[0])) / divisor
        torch.testing.assert_close(moved[place], total, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("normalize", [True, False])
def test_over_one_layer_joining_is_the_propagation_of_the_grown_graph(normalize: bool) -> None:
    rng = np.random.default_rng(0)
    matrix = (rng.random((6, 5)) < 0.5).astype(float)
    row = np.array([1.0, 0.0, 1.0, 1.0, 0.0])
    users, items = (torch.from_numpy(rng.normal(size=(size, 3))) for size in (7, 5))
    grown = Adjacency.from_matrix(sp.csr_array(np.vstack([matrix, row])), dtype=np.float64)
    before = Adjacency.from_matrix(sp.csr_array(matrix), dtype=np.float64)
    arguments: dict[str, Any] = {"layers": 1, "combine": "sum", "normalize_layers": normalize}
    wanted_users, wanted_items = propagate_composed([grown], users, items, **arguments)
    _, old = propagate_composed([before], users[:6], items, **arguments)
    frozen = FrozenItems.of(before, users[:6], items, **arguments)
    touched = torch.tensor([0, 2, 3])
    ones = torch.ones(1, dtype=torch.float64)
    found, moved = frozen.at(torch.tensor([0, 3]), touched).joined(users[6:], ones)
    torch.testing.assert_close(found, wanted_users[0, 6:])
    torch.testing.assert_close(old[0, touched] + moved, wanted_items[0, touched])
