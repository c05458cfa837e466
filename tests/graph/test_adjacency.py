from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import numpy as np
import numpy.typing as npt
import pytest
import scipy.sparse as sp
import torch
from hypothesis import given
from hypothesis import strategies as st

from funnelrec.common.errors import DataError
from funnelrec.graph import Adjacency
from funnelrec.graph.adjacency import CsrMatrix

FloatArray = npt.NDArray[np.float64]


def dense(matrix: CsrMatrix) -> FloatArray:
    arrays = (matrix.values.numpy(), matrix.indices.numpy(), matrix.indptr.numpy())
    return np.asarray(sp.csr_array(arrays, shape=matrix.shape).toarray(), dtype=np.float64)


def repeated_csr(edges: list[tuple[int, int, float]], shape: tuple[int, int]) -> sp.csr_array:
    """Return a CSR matrix in which repeated edges are stored as often as they come."""
    ordered = sorted(edges)
    users = np.array([user for user, _, _ in ordered], dtype=np.int64)
    items = np.array([item for _, item, _ in ordered], dtype=np.int64)
    weights = np.array([weight for _, _, weight in ordered])
    indptr = np.searchsorted(users, np.arange(shape[0] + 1))
    return sp.csr_array((weights, items, indptr), shape=shape)


def normalised(weights: FloatArray) -> FloatArray:
    """Return D^-1/2 W D^-1/2 one entry at a time."""
    result = np.zeros_like(weights)
    for user in range(weights.shape[0]):
        for item in range(weights.shape[1]):
            if weights[user, item] > 0:
                degrees = weights[user].sum() * weights[:, item].sum()
                result[user, item] = weights[user, item] / np.sqrt(degrees)
    return result


@st.composite
def weighted(
    draw: st.DrawFn, weights: st.SearchStrategy[float]
) -> tuple[list[tuple[int, int, float]], tuple[int, int]]:
    shape = (draw(st.integers(1, 6)), draw(st.integers(1, 6)))
    edge = st.tuples(st.integers(0, shape[0] - 1), st.integers(0, shape[1] - 1), weights)
    return draw(st.lists(edge, max_size=25)), shape


@given(weighted(st.just(1.0)))
def test_a_plain_graph_counts_a_repeated_edge_once(
    graph: tuple[list[tuple[int, int, float]], tuple[int, int]],
) -> None:
    edges, shape = graph
    binary = np.zeros(shape)
    for user, item, _ in edges:
        binary[user, item] = 1
    found = Adjacency.from_matrix(repeated_csr(edges, shape), dtype=np.float64)
    np.testing.assert_allclose(dense(found.to_users), normalised(binary), rtol=1e-14)
    assert found.to_users.nnz == found.to_items.nnz == binary.sum()


@given(weighted(st.sampled_from([0.0, 0.25, 1.0, 2.0, 3.5])))
def test_weights_of_repeated_edges_add_up(
    graph: tuple[list[tuple[int, int, float]], tuple[int, int]],
) -> None:
    edges, shape = graph
    if all(weight == 1 for _, _, weight in edges):
        return
    sums = np.zeros(shape)
    for user, item, weight in edges:
        sums[user, item] += weight
    matrix = repeated_csr(edges, shape)
    found = Adjacency.from_matrix(matrix, dtype=np.float64)
    plain = Adjacency.from_matrix(matrix, dtype=np.float64, normalization="none")
    np.testing.assert_allclose(dense(found.to_users), normalised(sums), rtol=1e-14)
    np.testing.assert_allclose(dense(plain.to_users), sums, rtol=1e-14)
    assert found.to_users.nnz == np.count_nonzero(sums)


@given(weighted(st.just(1.0)))
def test_both_halves_are_transposes_with_sorted_int32_indices(
    graph: tuple[list[tuple[int, int, float]], tuple[int, int]],
) -> None:
    edges, shape = graph
    found = Adjacency.from_matrix(repeated_csr(edges, shape))
    assert np.array_equal(dense(found.to_users).T, dense(found.to_items))
    assert (found.n_users, found.n_items) == shape
    for half in (found.to_users, found.to_items):
        assert half.indptr.dtype == half.indices.dtype == torch.int32
        assert half.values.dtype == torch.float32
        for start, stop in zip(half.indptr[:-1].tolist(), half.indptr[1:].tolist(), strict=True):
            row = half.indices[start:stop].tolist()
            assert row == sorted(set(row))


def test_the_matrix_given_is_left_as_it_was() -> None:
    matrix = repeated_csr([(0, 0, 1.0), (0, 0, 1.0), (1, 1, 1.0)], (2, 2))
    before = matrix.copy()
    graph = Adjacency.from_matrix(matrix)
    graph.to_users.values.zero_()
    assert np.array_equal(matrix.data, before.data)
    assert np.array_equal(matrix.indices, before.indices)


def test_integer_and_boolean_matrices_are_graphs_too() -> None:
    flags = np.array([[1, 0], [1, 1]])
    for kind in (np.int64, np.bool_):
        graph = Adjacency.from_matrix(sp.csr_array(flags.astype(kind)), dtype=np.float64)
        np.testing.assert_allclose(dense(graph.to_users), normalised(flags.astype(np.float64)))


def test_a_graph_without_edges_has_empty_halves() -> None:
    graph = Adjacency.from_matrix(sp.csr_array((3, 2)))
    assert graph.to_users.nnz == graph.to_items.nnz == 0
    assert graph.to_items.indptr.tolist() == [0, 0, 0]


@pytest.mark.parametrize("weight", [-1.0, np.nan, np.inf])
def test_impossible_weights_are_refused(weight: float) -> None:
    with pytest.raises(DataError) as caught:
        Adjacency.from_matrix(sp.csr_array(np.array([[1.0, weight]])))
    assert str(caught.value) == "edge weights must be finite and not negative."


def test_more_edges_than_int32_can_count_are_refused() -> None:
    huge = cast(sp.csr_array, SimpleNamespace(nnz=2**31))
    with pytest.raises(DataError) as caught:
        CsrMatrix.from_scipy(huge)
    assert str(caught.value) == "a graph may have at most 2**31 - 1 edges, got 2147483648."


def test_moving_keeps_the_graph() -> None:
    graph = Adjacency.from_matrix(sp.csr_array(np.array([[1.0, 1.0], [0.0, 1.0]])))
    moved = graph.to("meta")
    assert moved.to_users.values.device.type == moved.to_items.indptr.device.type == "meta"
    assert moved.to_users.shape == (2, 2)
    assert np.array_equal(dense(graph.to("cpu").to_users), dense(graph.to_users))


def test_inverse_sums_are_of_weights_and_zero_for_the_isolated() -> None:
    weights = np.array([[1.0, 3.0, 0.0], [0.0, 0.0, 0.0]])
    graph = Adjacency.from_matrix(sp.csr_array(weights), normalization="none")
    of_users, of_items = graph.inverse_sums
    assert of_users.tolist() == [[0.25], [0.0]]
    torch.testing.assert_close(of_items, torch.tensor([[1.0], [1 / 3], [0.0]]))


def test_a_thinned_graph_loses_the_same_edges_in_both_directions() -> None:
    rng = np.random.default_rng(1)
    matrix = sp.csr_array((rng.random((30, 20)) < 0.3).astype(np.float64))
    graph = Adjacency.from_matrix(matrix, normalization="none", dtype=np.float64)
    thin = graph.thinned(0.25, torch.Generator().manual_seed(2))
    assert np.array_equal(dense(thin.to_users), dense(thin.to_items).T)
    values = thin.to_users.values
    assert set(values.tolist()) == {0.0, 4 / 3}
    assert (values == 0).double().mean().item() == pytest.approx(0.25, abs=0.1)
    assert graph.thinned(0.0, torch.Generator()) is graph
    # The graph itself is left alone.
    assert set(graph.to_users.values.tolist()) == {1.0}
