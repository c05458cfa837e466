from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from funnelrec.common.errors import ConfigError
from funnelrec.graph.swing import swing_neighbors


def slow_swing(matrix: np.ndarray, alpha: float) -> np.ndarray:
    """Return the measure of all pairs of rows, from its definition."""
    size = len(matrix)
    partners = [set(np.flatnonzero(row)) for row in matrix]
    rows_of = [set(np.flatnonzero(column)) for column in matrix.T]
    found = np.zeros((size, size))
    for i in range(size):
        for j in range(size):
            for a, b in combinations(sorted(partners[i] & partners[j]), 2):
                found[i, j] += 1 / (alpha + len(rows_of[a] & rows_of[b]))
    np.fill_diagonal(found, 0)
    return found


@given(seed=st.integers(0, 10**6), keep=st.integers(1, 6), alpha=st.floats(0.5, 4))
@settings(max_examples=40)
def test_neighbors_are_the_most_alike_by_the_definition(seed: int, keep: int, alpha: float) -> None:
    rng = np.random.default_rng(seed)
    matrix = (rng.random((7, 6)) < rng.choice([0.2, 0.5, 0.8])).astype(np.float32)
    found = swing_neighbors(sp.csr_array(matrix), keep, alpha=alpha, most=6, rng=rng)
    wanted = slow_swing(matrix, alpha)
    assert found.shape == (7, keep)
    for row, numbers in enumerate(found):
        listed = numbers[numbers >= 0]
        assert len(set(listed)) == len(listed)
        assert len(listed) == min(keep, int((wanted[row] > 0).sum()))
        best = np.sort(wanted[row])[::-1][: len(listed)]
        np.testing.assert_allclose(wanted[row][listed], best, rtol=1e-5)
        assert (numbers[len(listed) :] == -1).all()


def test_a_pair_of_partners_says_less_the_more_they_share() -> None:
    # Rows 0 and 1 share two exclusive partners; 0 and 2 share two who share everything.
    matrix = np.array(
        [[1, 1, 1, 1], [1, 1, 0, 0], [0, 0, 1, 1], [0, 0, 1, 1], [0, 0, 1, 1]], dtype=np.float32
    )
    found = swing_neighbors(
        sp.csr_array(matrix), 1, alpha=1.0, most=9, rng=np.random.default_rng(0)
    )
    assert found[0].tolist() == [1]


def test_partners_beyond_the_most_are_drawn() -> None:
    matrix = np.ones((5, 40), dtype=np.float32)
    lists = [
        swing_neighbors(
            sp.csr_array(matrix), 4, alpha=1.0, most=6, rng=np.random.default_rng(seed)
        ).tolist()
        for seed in (0, 0, 1, 2, 3)
    ]
    assert lists[0] == lists[1]
    assert len({str(one) for one in lists}) > 1


@pytest.mark.parametrize("change", [{"keep": 0}, {"most": 1}, {"alpha": 0.0}])
def test_numbers_out_of_range_are_refused(change: dict[str, float]) -> None:
    given_numbers = {"keep": 1, "alpha": 1.0, "most": 4, **change}
    keep, most = int(given_numbers["keep"]), int(given_numbers["most"])
    with pytest.raises(ConfigError, match="swing_neighbors needs keep of at least 1"):
        swing_neighbors(
            sp.csr_array(np.ones((2, 2))),
            keep,
            alpha=given_numbers["alpha"],
            most=most,
            rng=np.random.default_rng(0),
        )
