from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from funnelrec.graph.adjacency import Adjacency, CsrMatrix
from funnelrec.graph.dropping import Dropping, dropped_graph


def dense(matrix: CsrMatrix) -> Tensor:
    rows = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr.numpy()))
    found = torch.zeros(matrix.shape, dtype=matrix.values.dtype)
    found[rows, matrix.indices.long()] = matrix.values
    return found


def random_graph(seed: int, n_users: int = 9, n_items: int = 7, density: float = 0.5) -> Tensor:
    drawn = torch.rand(n_users, n_items, generator=torch.Generator().manual_seed(seed))
    return (drawn < density).double()


def normalised(matrix: Tensor) -> Tensor:
    users, items = matrix.sum(dim=1, keepdim=True), matrix.sum(dim=0, keepdim=True)
    scale = (users * items).sqrt()
    return torch.where(scale > 0, matrix / scale.clamp_min(1), 0.0)


def dropped(matrix: Tensor, kind: Dropping, ratio: float, seed: int = 3) -> Adjacency:
    graph = Adjacency.from_matrix(sp.csr_array(matrix.numpy()), dtype=np.float64)
    return dropped_graph(graph, kind, ratio, torch.Generator().manual_seed(seed))


@given(
    seed=st.integers(0, 10**6),
    kind=st.sampled_from(["nodes", "edges"]),
    ratio=st.floats(0, 1),
    density=st.sampled_from([0.0, 0.2, 0.6, 1.0]),
)
def test_what_is_left_is_a_normalised_part_of_the_graph(
    seed: int, kind: Dropping, ratio: float, density: float
) -> None:
    matrix = random_graph(seed, density=density)
    found = dropped(matrix, kind, ratio, seed)
    half, other = dense(found.to_users), dense(found.to_items)
    assert torch.equal(half, other.T)
    left = (half > 0).double()
    assert ((left == 1) <= (matrix == 1)).all()
    torch.testing.assert_close(half, normalised(left))
    if kind == "edges":
        assert int(left.sum()) == int(matrix.sum()) - int(matrix.sum() * ratio)


def test_dropped_nodes_lose_all_edges_and_others_keep_them_among_themselves() -> None:
    matrix = torch.ones(10, 6, dtype=torch.float64)
    left = dense(dropped(matrix, "nodes", 0.5).to_users) > 0
    users, items = left.any(dim=1), left.any(dim=0)
    assert (int(users.sum()), int(items.sum())) == (5, 3)
    assert torch.equal(left, users[:, None] & items[None, :])


@pytest.mark.parametrize("kind", ["nodes", "edges"])
def test_nothing_or_everything_is_dropped_at_the_ends(kind: Dropping) -> None:
    matrix = random_graph(1)
    torch.testing.assert_close(dense(dropped(matrix, kind, 0.0).to_users), normalised(matrix))
    assert not dropped(matrix, kind, 1.0).to_items.values.any()


@pytest.mark.parametrize("kind", ["nodes", "edges"])
def test_every_draw_is_another_and_a_seed_repeats_it(kind: Dropping) -> None:
    matrix = random_graph(1)
    found = [dense(dropped(matrix, kind, 0.5, seed).to_users) for seed in (1, 1, 2)]
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])
