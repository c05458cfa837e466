from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from funnelrec.objectives.invariance import gradient_variance, irm_penalty, risk_variance

risks = st.lists(st.floats(0, 5), min_size=2, max_size=6)


def double(values: list[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


@given(st.floats(0, 5), st.floats(0, 5))
def test_two_risks(a: float, c: float) -> None:
    pair = double([a, c])
    assert risk_variance(pair, unbiased=False).item() == pytest.approx((a - c) ** 2 / 4)
    assert risk_variance(pair, unbiased=True).item() == pytest.approx((a - c) ** 2 / 2)


@given(risks, st.booleans(), st.floats(-3, 3))
def test_variance_is_its_definition_and_ignores_a_common_shift(
    values: list[float], unbiased: bool, shift: float
) -> None:
    middle = sum(values) / len(values)
    slow = sum((value - middle) ** 2 for value in values) / (len(values) - unbiased)
    assert risk_variance(double(values), unbiased=unbiased).item() == pytest.approx(slow, abs=1e-12)
    shifted = double([value + shift for value in values])
    assert risk_variance(shifted, unbiased=unbiased).item() == pytest.approx(slow, abs=1e-9)


@given(st.floats(0, 5), st.integers(1, 6), st.booleans())
def test_equal_risks_have_no_variance(value: float, number: int, unbiased: bool) -> None:
    assert risk_variance(double([value] * number), unbiased=unbiased).item() == pytest.approx(
        0.0, abs=1e-20
    )


def test_a_single_risk_has_variance_zero_and_a_gradient_of_zero() -> None:
    risk = double([2.0]).requires_grad_()
    (slope,) = torch.autograd.grad(risk_variance(risk), risk)
    assert slope.tolist() == [0.0]


def random_gaps(seed: int, behaviors: int = 3, users: int = 5) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    gaps = torch.randn(behaviors, users, generator=generator, dtype=torch.float64)
    present = torch.rand(behaviors, users, generator=generator) < 0.7
    return gaps, present


@given(st.integers(0, 500), st.floats(-2, 3))
def test_irm_penalty_is_the_squared_derivative_of_each_risk(seed: int, scale: float) -> None:
    gaps, present = random_gaps(seed)
    total = 0.0
    for row, there in zip(gaps, present, strict=True):
        w = torch.tensor(scale, dtype=torch.float64, requires_grad=True)
        if there.any():
            risk = torch.nn.functional.softplus(-w * row[there]).mean()
            total += torch.autograd.grad(risk, w)[0].item() ** 2
    assert irm_penalty(gaps, present, scale).item() == pytest.approx(total, rel=1e-9, abs=1e-14)


def test_gaps_of_zero_cost_ln_2_and_no_penalty() -> None:
    assert irm_penalty(torch.zeros(3, 4), torch.ones(3, 4, dtype=torch.bool)).item() == 0.0


def test_the_closed_form_at_one() -> None:
    gaps = double([0.5, -1.0])[None]
    mean = sum(-gap / (1 + math.exp(gap)) for gap in (0.5, -1.0)) / 2
    assert irm_penalty(gaps, torch.ones(1, 2, dtype=torch.bool)).item() == pytest.approx(mean**2)


def test_gradients_agree_with_finite_differences() -> None:
    gaps, present = random_gaps(1)
    scale = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda g, w: irm_penalty(g, present, w), (gaps.requires_grad_(), scale)
    )
    values = double([0.3, 0.9, 0.4]).requires_grad_()
    for unbiased in (True, False):
        assert torch.autograd.gradcheck(
            lambda r, unbiased=unbiased: risk_variance(r, unbiased=unbiased), values
        )


def toy_risks(parameter: Tensor) -> Tensor:
    # dR_b/dx = b * x^(b - 1), elementwise, for b = 1, 2, 3.
    return torch.stack([parameter.pow(power).sum() for power in (1, 2, 3)])


def test_gradient_variance_is_the_variance_of_each_entry_averaged() -> None:
    parameter = double([0.5, -1.5]).requires_grad_()
    x = parameter.detach().numpy()
    slopes = np.stack([np.ones(2), 2 * x, 3 * x**2])
    found = gradient_variance(toy_risks(parameter), parameter)
    assert found.item() == pytest.approx(slopes.var(axis=0, ddof=1).mean())
    assert torch.autograd.gradcheck(lambda p: gradient_variance(toy_risks(p), p), parameter)


def test_gradient_variance_of_a_single_risk_is_zero() -> None:
    parameter = double([0.5]).requires_grad_()
    value = gradient_variance(parameter.pow(2), parameter)
    assert value.item() == 0.0
    assert torch.autograd.grad(value, parameter)[0].tolist() == [0.0]


@given(st.integers(0, 1000), st.lists(st.booleans(), min_size=2, max_size=5), st.booleans())
def test_absent_risks_leave_no_trace(seed: int, chosen: list[bool], unbiased: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    risks = torch.rand(len(chosen), generator=generator, dtype=torch.float64).requires_grad_()
    present = torch.tensor(chosen)
    masked = risk_variance(risks, unbiased=unbiased, present=present)
    selected = risk_variance(risks[present], unbiased=unbiased)
    torch.testing.assert_close(masked, selected)
    torch.testing.assert_close(
        torch.autograd.grad(masked, risks), torch.autograd.grad(selected, risks)
    )
