from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from funnelrec.objectives.regularization import l2_of_rows, table_lengths


@given(st.integers(1, 4), st.integers(1, 6), st.integers(1, 5), st.integers(0, 100))
def test_it_is_half_the_squared_rows_over_the_batch(
    parts: int, batch: int, dim: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    rows = [torch.randn(batch, dim, generator=generator, dtype=torch.float64) for _ in range(parts)]
    slow = sum(value**2 for part in rows for row in part.tolist() for value in row) / (2 * batch)
    assert l2_of_rows(*rows).item() == pytest.approx(slow)


def test_the_gradient_is_the_row_over_the_batch() -> None:
    rows = torch.tensor([[1.0, -2.0], [3.0, 0.5]], requires_grad=True)
    (slope,) = torch.autograd.grad(l2_of_rows(rows), rows)
    assert torch.equal(slope, rows.detach() / 2)


def test_repeating_a_batch_changes_nothing_and_an_empty_one_is_zero() -> None:
    rows = torch.randn(3, 2, generator=torch.Generator().manual_seed(0))
    assert l2_of_rows(torch.cat([rows, rows])).item() == pytest.approx(l2_of_rows(rows).item())
    assert l2_of_rows(rows[:0]).item() == 0.0


@given(st.integers(1, 5), st.integers(1, 5), st.integers(1, 4), st.integers(0, 100))
def test_lengths_of_tables_are_over_the_rows_of_the_last(
    n_users: int, n_items: int, dim: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    users, items = (
        torch.randn(rows, dim, generator=generator, dtype=torch.float64)
        for rows in (n_users, n_items)
    )
    lengths = [
        math.sqrt(sum(value**2 for row in table.tolist() for value in row))
        for table in (users, items)
    ]
    assert table_lengths(users, items).item() == pytest.approx(sum(lengths) / n_items)


def test_a_table_of_zeros_has_length_0_and_does_not_move() -> None:
    tables = [torch.zeros(3, 2, requires_grad=True), torch.zeros(4, 2, requires_grad=True)]
    total = table_lengths(*tables)
    assert total.item() == 0
    assert not any(slope.any() for slope in torch.autograd.grad(total, tables))
