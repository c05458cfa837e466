from __future__ import annotations

import torch

from funnelrec.objectives.bpr import bpr
from funnelrec.objectives.softmax_ranking import softmax_ranking


def test_it_is_its_definition_with_gradients() -> None:
    generator = torch.Generator().manual_seed(2)
    positive = torch.randn(6, dtype=torch.float64, generator=generator).requires_grad_()
    negatives = torch.randn(6, 4, dtype=torch.float64, generator=generator).requires_grad_()
    found = softmax_ranking(positive, negatives)
    expected = torch.log(1 + torch.exp(negatives - positive[:, None]).sum(dim=1)).mean()
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(
        torch.autograd.grad(found, (positive, negatives)),
        torch.autograd.grad(expected, (positive, negatives)),
    )


def test_with_one_negative_it_is_bpr() -> None:
    positive, negative = torch.tensor([1.0, -2.0]), torch.tensor([0.5, 3.0])
    torch.testing.assert_close(
        softmax_ranking(positive, negative[:, None]), bpr(positive, negative)
    )


def test_a_hopeless_pair_has_a_finite_loss() -> None:
    assert softmax_ranking(torch.tensor([-1e4]), torch.full((1, 3), 1e4)).isfinite()
