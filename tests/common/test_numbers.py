from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from funnelrec.common.errors import UsageError
from funnelrec.common.numbers import checked_numbers


@pytest.mark.parametrize("given", [[2, 0, 2], np.array([2, 0, 2], np.uint8), (2, 0, 2)])
def test_any_whole_numbers_come_back_as_int64(given: Any) -> None:
    found = checked_numbers(given, 3, "user")
    assert found.tolist() == [2, 0, 2]
    assert found.dtype == np.int64


def test_nothing_is_fine() -> None:
    assert checked_numbers([], 0, "item").shape == (0,)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([[1]], r"items must be a flat array of item numbers, got int64 of shape \(1, 1\)\.$"),
        ([0.5], r"items must be a flat array of item numbers, got float64 of shape \(1,\)\.$"),
        (3, r"items must be a flat array of item numbers, got int64 of shape \(\)\.$"),
        ([0, 3], r"item numbers must lie in 0\.\.2, got 0\.\.3\.$"),
        ([-1, 2], r"item numbers must lie in 0\.\.2, got -1\.\.2\.$"),
    ],
)
def test_what_is_no_number_is_refused(given: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        checked_numbers(given, 3, "item")
