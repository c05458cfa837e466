from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from funnelrec.objectives.bpr import bpr
from funnelrec.objectives.ordinal import ordinal


def drawn(seed: int, rows: int) -> tuple[list[Tensor], Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    scores = [
        torch.randn(rows, generator=generator, dtype=torch.float64).mul(3).requires_grad_()
        for _ in range(3)
    ]
    weight = torch.rand(rows, generator=generator, dtype=torch.float64).requires_grad_()
    return scores, weight, torch.rand(rows, generator=generator) < 0.6


def slow(scores: list[Tensor], weight: Tensor, present: Tensor) -> Tensor:
    total = torch.zeros((), dtype=torch.float64)
    for row in range(len(weight)):
        positive, middle, negative = (part[row] for part in scores)
        if present[row]:
            total = total - torch.log(torch.sigmoid(positive - middle))
            total = total - weight[row] * torch.log(torch.sigmoid(middle - negative))
        else:
            total = total - torch.log(torch.sigmoid(positive - negative))
    return total / len(weight)


@given(st.integers(0, 1000), st.integers(1, 8))
def test_it_is_its_definition_with_gradients(seed: int, rows: int) -> None:
    scores, weight, present = drawn(seed, rows)
    found = ordinal(*scores, weight=weight, present=present)
    # The weight joins in even where no row uses it, so that autograd knows it.
    expected = slow(scores, weight, present) + 0 * weight.sum() + 0 * sum(s.sum() for s in scores)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
    leaves = [*scores, weight]
    torch.testing.assert_close(
        torch.autograd.grad(found, leaves),
        torch.autograd.grad(expected, leaves),
        rtol=1e-9,
        atol=1e-12,
    )


def test_weights_of_zero_leave_the_upper_step() -> None:
    (positive, middle, negative), weight, _ = drawn(1, 6)
    everywhere = torch.ones(6, dtype=torch.bool)
    found = ordinal(positive, middle, negative, weight=0 * weight, present=everywhere)
    torch.testing.assert_close(found, bpr(positive, middle))


def test_without_any_middle_item_it_is_bpr_whatever_stands_there() -> None:
    (positive, _, negative), weight, _ = drawn(2, 6)
    nowhere = torch.zeros(6, dtype=torch.bool)
    rubbish = torch.full((6,), torch.nan, dtype=torch.float64)
    found = ordinal(positive, rubbish, negative, weight=rubbish * weight, present=nowhere)
    torch.testing.assert_close(found, bpr(positive, negative))


def test_it_is_lowest_where_the_order_holds() -> None:
    high, middle, low = (torch.tensor([value]) for value in (2.0, 0.0, -2.0))
    one, there = torch.ones(1), torch.ones(1, dtype=torch.bool)
    right = ordinal(high, middle, low, weight=one, present=there)
    for wrong in ((middle, high, low), (high, low, middle), (low, middle, high)):
        assert right < ordinal(*wrong, weight=one, present=there)
