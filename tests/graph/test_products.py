from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from funnelrec.common.errors import ConfigError
from funnelrec.graph import Adjacency, propagate, sparse_product
from funnelrec.graph.adjacency import CsrMatrix, Kernel, Pieces
from funnelrec.graph.products import (
    KERNELS,
    TRITON_FROM,
    TRITON_UP_TO,
    by_bags,
    fastest,
    multiply,
)


def graph_of(seed: int, n_users: int, n_items: int) -> Adjacency:
    rng = np.random.default_rng(seed)
    matrix = rng.random((n_users, n_items)) < rng.random((n_users, 1))
    return Adjacency.from_matrix(sp.csr_array(matrix.astype(float)), dtype=np.float64)


def dense_of(matrix: Any) -> Tensor:
    arrays = (matrix.values.numpy(), matrix.indices.numpy(), matrix.indptr.numpy())
    return torch.from_numpy(sp.csr_array(arrays, shape=matrix.shape).toarray())


@pytest.mark.parametrize("kernel", ["bag", "csr"])
@given(seed=st.integers(0, 1000), n_users=st.integers(1, 8), n_items=st.integers(1, 8))
def test_a_kernel_gives_the_dense_product(
    kernel: Kernel, seed: int, n_users: int, n_items: int
) -> None:
    graph = graph_of(seed, n_users, n_items).by(kernel)
    rows = torch.randn(n_items, 3, dtype=torch.float64)
    for table in (rows, rows.T.contiguous().T):
        found = multiply(graph.to_users, table)
        torch.testing.assert_close(found, dense_of(graph.to_users) @ rows)


def test_the_named_kernel_is_the_one_that_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    called = []

    def watched(name: Kernel) -> Any:
        def multiplied(matrix: CsrMatrix, table: Tensor) -> Tensor:
            called.append(name)
            return by_bags(matrix, table)

        return multiplied

    monkeypatch.setattr(
        "funnelrec.graph.products.KERNELS", {name: watched(name) for name in KERNELS}
    )
    graph = graph_of(1, 4, 5)
    tables = (torch.ones(4, 2, dtype=torch.float64), torch.ones(5, 2, dtype=torch.float64))
    for kernel in (None, "csr", "triton"):
        propagate([graph.by(kernel).to("cpu")], *tables, layers=1)
    assert called == ["bag", "bag", "csr", "csr", "triton", "triton"]


def test_triton_is_refused_on_a_cpu() -> None:
    graph = graph_of(1, 4, 5).by("triton")
    with pytest.raises(ConfigError) as caught:
        multiply(graph.to_users, torch.ones(5, 2, dtype=torch.float64))
    assert str(caught.value) == (
        "kernel='triton' runs on CUDA devices only, got a tensor on cpu; take 'bag' or 'csr'."
    )


@given(st.lists(st.integers(0, 9), min_size=1, max_size=8), st.integers(1, 4))
def test_pieces_cover_every_row_once_and_are_short(sizes: list[int], length: int) -> None:
    indptr = torch.tensor([0, *np.cumsum(sizes)], dtype=torch.int32)
    pieces = Pieces.of(indptr, length)
    starts, ends, targets = (part.tolist() for part in (pieces.starts, pieces.ends, pieces.targets))
    assert max(end - start for start, end in zip(starts, ends, strict=True)) <= length
    # What a kernel does with them: one sum a piece, and the sums of long rows added up.
    values = np.random.default_rng(0).integers(1, 100, int(indptr[-1]))
    out, partial = np.full(len(sizes), -1), np.zeros(pieces.n_partial)
    for start, end, target in zip(starts, ends, targets, strict=True):
        if target >= 0:
            assert out[target] == -1
            out[target] = values[start:end].sum()
        else:
            partial[-1 - target] = values[start:end].sum()
    bounds = pieces.bounds.tolist()
    for place, row in enumerate(pieces.long_rows.tolist()):
        out[row] = partial[bounds[place] : bounds[place + 1]].sum()
    expected = [values[indptr[row] : indptr[row + 1]].sum() for row in range(len(sizes))]
    assert out.tolist() == expected


def test_mixed_precision_leaves_propagation_alone() -> None:
    graph = Adjacency.from_matrix(sp.csr_array(np.ones((4, 5))))
    generator = torch.Generator().manual_seed(1)
    users, items = (torch.randn(n, 8, generator=generator) for n in (4, 5))
    exact = propagate([graph.by("csr")], users, items, layers=2)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = propagate([graph.by("csr")], users, items, layers=2)
        product = sparse_product(graph.to_users, graph.to_items, items)
        assert (users @ items.T).dtype == torch.bfloat16
    assert product.dtype == torch.float32
    assert all(torch.equal(one, other) for one, other in zip(mixed, exact, strict=True))


@pytest.mark.parametrize(
    ("entries", "columns", "triton", "expected"),
    [
        (TRITON_FROM, TRITON_UP_TO, True, "triton"),
        (TRITON_FROM - 1, TRITON_UP_TO, True, "csr"),
        (TRITON_FROM, TRITON_UP_TO + 1, True, "csr"),
        (TRITON_FROM, TRITON_UP_TO, False, "csr"),
    ],
)
def test_a_card_takes_our_kernel_for_large_graphs(
    entries: int, columns: int, triton: bool, expected: str
) -> None:
    assert fastest(entries, columns, cuda=True, triton=triton) == expected
    assert fastest(entries, columns, cuda=False, triton=triton) == "bag"
