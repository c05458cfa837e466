from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from funnelrec.common.errors import ConfigError
from funnelrec.graph.neighbors import Places, Values, neighbors, strongest_per_row
from funnelrec.testing.datasets import sparse_matrices


def slow_strongest(dense: Values, keep: int) -> Values:
    """Zero what lies below the keep-th largest entry of its row."""
    result = np.zeros_like(dense)
    for row, values in enumerate(dense):
        bound = np.sort(values)[::-1][min(keep, len(values)) - 1]
        result[row] = np.where(values >= bound, values, 0)
    return result


@given(matrix=sparse_matrices(weighted=True), keep=st.integers(1, 6))
@settings(max_examples=40)
def test_the_strongest_are_those_of_a_sort(matrix: sp.csr_array, keep: int) -> None:
    found = strongest_per_row(matrix, keep)
    np.testing.assert_array_equal(found.toarray(), slow_strongest(matrix.toarray(), keep))


def test_ties_are_kept_and_small_values_ordered() -> None:
    tiny = np.array([[1e-30, 3e-38, 1e30, 1.0, 1.0], [0, 0, 0, 0, 2.0], [0, 0, 0, 0, 0]])
    found = strongest_per_row(sp.csr_array(tiny.astype(np.float32)), 2)
    assert found.indices.tolist() == [2, 3, 4, 4]
    assert strongest_per_row(found, 3) is found
    with pytest.raises(ConfigError, match="keep must be at least 1, got 0"):
        strongest_per_row(found, 0)


@given(
    matrix=sparse_matrices(weighted=True),
    keep=st.integers(1, 5),
    own=st.sampled_from([0.0, 0.5, 2.0]),
    budget=st.integers(1, 60),
)
@settings(max_examples=40)
def test_neighbors_are_those_of_the_dense_product(
    matrix: sp.csr_array, keep: int, own: float, budget: int
) -> None:
    def less(rows: Places, columns: Places, products: Values) -> Values:
        # Eighths stay exact; what falls to 0 or below must vanish.
        return products - np.float32(0.125) * (rows + 2 * columns).astype(np.float32)

    place = np.arange(matrix.shape[1])
    dense = matrix.toarray().T @ matrix.toarray()
    # An entry that the sparse product does not have is no neighbor, whatever it is weighed to.
    weighed = np.where(dense > 0, less(place[:, None], place[None, :], dense), 0)
    others = np.maximum(weighed - np.diag(np.diag(weighed)), 0)
    expected = slow_strongest(others, keep) + np.diag(own * np.diag(weighed))
    found = neighbors(matrix.T.tocsr(), matrix, keep, weigh=less, own=own, budget=budget)
    np.testing.assert_array_equal(found.toarray(), expected)
    assert found.nnz == np.count_nonzero(expected)


def test_without_a_weighing_the_products_are_kept() -> None:
    matrix = sp.csr_array(np.array([[1, 1, 0], [1, 1, 1]], dtype=np.float32))
    found = neighbors(matrix.T.tocsr(), matrix, 1)
    np.testing.assert_array_equal(found.toarray(), [[0, 2, 0], [2, 0, 0], [1, 1, 0]])
