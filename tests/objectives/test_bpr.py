from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from funnelrec.objectives.bpr import bpr, bpr_per_row


def random(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


gaps = st.floats(-30, 30)


@given(st.lists(st.tuples(gaps, gaps), min_size=1, max_size=20))
def test_it_is_the_mean_of_minus_log_sigmoid(pairs: list[tuple[float, float]]) -> None:
    slow = sum(-math.log(1 / (1 + math.exp(-(high - low)))) for high, low in pairs) / len(pairs)
    high, low = torch.tensor(pairs, dtype=torch.float64).T
    assert bpr(high, low).item() == pytest.approx(slow, rel=1e-9, abs=1e-12)


def test_equal_scores_cost_the_logarithm_of_two() -> None:
    assert bpr(torch.full((5,), 3.0), torch.full((5,), 3.0)).item() == pytest.approx(math.log(2))


def test_one_user_two_items_and_one_dimension() -> None:
    # One user p = 1, items q = (a, b): loss softplus(b - a), dL/da = -sigma(b - a).
    a = torch.tensor([0.3], dtype=torch.float64, requires_grad=True)
    b = torch.tensor([1.1], dtype=torch.float64, requires_grad=True)
    loss = bpr(a, b)
    (slope_a, slope_b) = torch.autograd.grad(loss, [a, b])
    assert loss.item() == pytest.approx(math.log1p(math.exp(0.8)))
    assert slope_a.item() == pytest.approx(-1 / (1 + math.exp(-0.8)))
    assert slope_b.item() == -slope_a.item()


def test_a_hopeless_pair_keeps_its_gradient_and_a_safe_one_loses_it() -> None:
    positive = torch.tensor([-500.0, 500.0], requires_grad=True)
    loss = bpr(positive, torch.zeros(2))
    (slopes,) = torch.autograd.grad(loss, positive)
    assert loss.item() == pytest.approx(250.0)
    assert slopes.tolist() == [-0.5, 0.0]


def test_adding_a_constant_to_every_score_changes_nothing() -> None:
    high, low = random(8, seed=1), random(8, seed=2)
    assert bpr(high + 4, low + 4).item() == pytest.approx(bpr(high, low).item())


def test_gradients_agree_with_finite_differences() -> None:
    inputs = (random(6, seed=1).requires_grad_(), random(6, seed=2).requires_grad_())
    assert torch.autograd.gradcheck(bpr, inputs)


@given(st.integers(1, 5), st.integers(1, 8), st.integers(0, 100))
def test_rows_average_over_what_is_present(rows: int, columns: int, seed: int) -> None:
    high, low = random(rows, columns, seed=seed), random(rows, columns, seed=seed + 1)
    present = random(rows, columns, seed=seed + 2) > 0
    found = bpr_per_row(high, low, present)
    assert found.shape == (rows,)
    for row in range(rows):
        costs = [
            math.log1p(math.exp(low[row, column] - high[row, column]))
            for column in range(columns)
            if present[row, column]
        ]
        assert found[row].item() == pytest.approx(sum(costs) / len(costs) if costs else 0.0)


def test_absent_entries_have_no_gradient() -> None:
    high = random(2, 3, seed=1).requires_grad_()
    present = torch.tensor([[True, False, True], [False, False, False]])
    total = bpr_per_row(high, random(2, 3, seed=2), present).sum()
    (slopes,) = torch.autograd.grad(total, high)
    assert (slopes != 0).tolist() == present.tolist()
    assert torch.autograd.gradcheck(
        lambda scores: bpr_per_row(scores, random(2, 3, seed=2), present), high
    )


@given(st.integers(1, 4), st.integers(1, 7), st.integers(0, 100))
def test_padding_counts_ln_2_for_what_is_absent(rows: int, columns: int, seed: int) -> None:
    high, low = random(rows, columns, seed=seed), random(rows, columns, seed=seed + 1)
    present = random(rows, columns, seed=seed + 2) > 0
    found = bpr_per_row(high, low, present, pad_missing=True)
    for row in range(rows):
        costs = [
            math.log1p(math.exp(low[row, column] - high[row, column]))
            if present[row, column]
            else math.log(2)
            for column in range(columns)
        ]
        assert found[row].item() == pytest.approx(sum(costs) / columns)
