from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from funnelrec.objectives.bpr import bpr
from funnelrec.objectives.ordinal import ordinal


def drawn(seed: int, rows: int, middles: int = 1) -> tuple[list[Tensor], Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    scores = [
        torch.randn(shape, generator=generator, dtype=torch.float64).mul(3).requires_grad_()
        for shape in ((rows,), (rows, middles), (rows,))
    ]
    weight = torch.rand(rows, middles, generator=generator, dtype=torch.float64).requires_grad_()
    return scores, weight, torch.rand(rows, generator=generator) < 0.6


def slow(
    scores: list[Tensor], weight: Tensor, present: Tensor, upper: float = 1.0, direct: float = 0.0
) -> Tensor:
    total = torch.zeros((), dtype=torch.float64)
    for row in range(len(weight)):
        positive, middle, negative = (part[row] for part in scores)
        if present[row]:
            total = total - direct * torch.log(torch.sigmoid(positive - negative))
            for one, w in zip(middle, weight[row], strict=True):
                steps = upper * torch.log(torch.sigmoid(positive - one))
                steps = steps + w * torch.log(torch.sigmoid(one - negative))
                total = total - steps / len(middle)
        else:
            total = total - torch.log(torch.sigmoid(positive - negative))
    return total / len(weight)


@given(st.integers(0, 1000), st.integers(1, 8), st.sampled_from([(1.0, 0.0), (0.3, 0.7)]))
def test_it_is_its_definition_with_gradients(
    seed: int, rows: int, steps: tuple[float, float]
) -> None:
    scores, weight, present = drawn(seed, rows, 1 + seed % 3)
    found = ordinal(
        *scores, weight=weight, present=present, upper_weight=steps[0], direct_weight=steps[1]
    )
    # The weight joins in even where no row uses it, so that autograd knows it.
    expected = (
        slow(scores, weight, present, *steps) + 0 * weight.sum() + 0 * sum(s.sum() for s in scores)
    )
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
    torch.testing.assert_close(found, bpr(positive, middle[:, 0]))


def test_without_any_middle_item_it_is_bpr_whatever_stands_there() -> None:
    (positive, _, negative), weight, _ = drawn(2, 6)
    nowhere = torch.zeros(6, dtype=torch.bool)
    rubbish = torch.full((6, 1), torch.nan, dtype=torch.float64)
    found = ordinal(positive, rubbish, negative, weight=rubbish * weight, present=nowhere)
    torch.testing.assert_close(found, bpr(positive, negative))


def test_it_is_lowest_where_the_order_holds() -> None:
    high, middle, low = (torch.tensor([value]) for value in (2.0, 0.0, -2.0))
    one, there = torch.ones(1, 1), torch.ones(1, dtype=torch.bool)
    right = ordinal(high, middle[:, None], low, weight=one, present=there)
    for first, second, third in ((middle, high, low), (high, low, middle), (low, middle, high)):
        assert right < ordinal(first, second[:, None], third, weight=one, present=there)


def test_several_negatives_by_their_log_sum_exp_are_a_cross_entropy() -> None:
    generator = torch.Generator().manual_seed(4)
    middle = torch.randn(5, generator=generator, dtype=torch.float64)
    others = torch.randn(5, 7, generator=generator, dtype=torch.float64)
    far = torch.full((5,), 1e3, dtype=torch.float64)
    found = ordinal(
        far,
        middle[:, None],
        others.logsumexp(dim=1),
        weight=torch.ones(5, 1, dtype=torch.float64),
        present=torch.ones(5, dtype=torch.bool),
    )
    logits = torch.cat([middle[:, None], others], dim=1)
    torch.testing.assert_close(found, -torch.log_softmax(logits, dim=1)[:, 0].mean())
