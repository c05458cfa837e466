from __future__ import annotations

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
    found = frozen.users(half.indptr, half.indices, own=users)
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
    found = frozen.users(*edges, own=torch.zeros(2, 3))
    assert found[0].tolist() == pytest.approx([1 / 6**0.5, 1 / 3**0.5, 1 / 3**0.5])
    assert found[1].tolist() == [0, 0, 0]
