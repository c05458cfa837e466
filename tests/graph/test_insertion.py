from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from funnelrec.graph import Adjacency, propagate, users_after_insertion


def drawn(seed: int, shape: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    matrix = (torch.rand(shape, generator=generator) < 0.4).double()
    tables = [torch.randn(n, 3, generator=generator, dtype=torch.float64) for n in shape]
    return matrix, tables[0], tables[1]


def graph_of(matrix: Tensor) -> Adjacency:
    return Adjacency.from_matrix(sp.csr_array(matrix.numpy()), dtype=np.float64)


@pytest.mark.parametrize("options", [{"layers": 2}, {"layers": 3, "combine": "last"}])
@given(st.integers(0, 500))
@settings(max_examples=10)
def test_every_pair_has_a_graph_of_its_own(options: Any, seed: int) -> None:
    matrix, users, items = drawn(seed, (3, 4))
    everywhere = torch.ones(3, 4).nonzero()
    pairs = (everywhere[:, 0], everywhere[:, 1])
    found = users_after_insertion(graph_of(matrix), users, items, pairs, **options)
    for place, (user, item) in enumerate(everywhere.tolist()):
        wider = matrix.clone()
        wider[user, item] = 1
        expected = propagate([graph_of(wider)], users, items, **options)[0][0, user]
        torch.testing.assert_close(found[place], expected, rtol=1e-12, atol=1e-12)


def test_an_edge_that_is_there_changes_nothing() -> None:
    matrix, users, items = drawn(3, (4, 5))
    user, item = matrix.nonzero()[0].tolist()
    pair = (torch.tensor([user]), torch.tensor([item]))
    found = users_after_insertion(graph_of(matrix), users, items, pair, layers=3)
    expected = propagate([graph_of(matrix)], users, items, layers=3)[0][0, user]
    torch.testing.assert_close(found[0], expected)


def test_nothing_asked_nothing_answered() -> None:
    none = torch.empty(0, dtype=torch.int64)
    matrix, users, items = drawn(1, (2, 2))
    found = users_after_insertion(graph_of(matrix), users, items, (none, none), layers=1)
    assert found.shape == (0, 3)
