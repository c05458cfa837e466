"""Products at pairs are those of the whole product."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from funnelrec.common.errors import DataError
from funnelrec.graph.pairs import pair_products


@pytest.mark.parametrize("mkl", [True, False])
@pytest.mark.parametrize("dim", [1, 7, 64])
def test_they_are_entries_of_the_whole_product(
    mkl: bool, dim: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not mkl:
        monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: False)
    rng = np.random.default_rng(dim)
    # A strided view, as a cut of the directions is; rows without a pair; an item asked twice.
    left = rng.standard_normal((40, 2 * dim)).astype(np.float32)[:, dim:]
    right = rng.standard_normal((30, 2 * dim)).astype(np.float32)[:, :dim]
    sizes = rng.integers(0, 6, 40)
    sizes[[0, 17, 39]] = 0
    indptr = np.concatenate([[0], np.cumsum(sizes)])
    indices = rng.integers(0, 30, indptr[-1])
    whole = left.astype(np.float64) @ right.astype(np.float64).T
    expected = whole[np.repeat(np.arange(40), sizes), indices]
    found = pair_products(left, right, indptr, indices)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_no_pair_has_no_product() -> None:
    left = np.ones((2, 3), dtype=np.float32)
    assert pair_products(left, left, np.zeros(3, np.int64), np.zeros(0, np.int64)).shape == (0,)


def test_what_does_not_fit_is_refused() -> None:
    left = np.ones((2, 3), dtype=np.float32)
    with pytest.raises(DataError, match="indptr must have 3 entries"):
        pair_products(left, left, np.array([0, 1]), np.array([0]))
    with pytest.raises(DataError, match="rows of right, 0 to 1, got 0 to 2"):
        pair_products(left, left, np.array([0, 1, 2]), np.array([2, 0]))
