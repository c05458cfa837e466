from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from funnelrec.objectives.mutual_information import donsker_varadhan, log_mean_exp

scores = st.lists(st.floats(-20, 20), min_size=1, max_size=8)


def tensor(values: list[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64, requires_grad=True)


def slow(joint: Tensor, mismatched: Tensor) -> Tensor:
    return torch.log(torch.exp(mismatched).mean()) - joint.sum() / len(joint)


@given(scores, scores)
def test_it_is_its_definition_with_gradients(one: list[float], other: list[float]) -> None:
    joint, mismatched = tensor(one), tensor(other)
    found, expected = donsker_varadhan(joint, mismatched), slow(joint, mismatched)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(
        torch.autograd.grad(found, [joint, mismatched]),
        torch.autograd.grad(expected, [joint, mismatched]),
        rtol=1e-9,
        atol=1e-9,
    )


@given(scores, scores, st.floats(-50, 50))
def test_a_constant_added_to_the_estimator_changes_nothing(
    one: list[float], other: list[float], constant: float
) -> None:
    joint, mismatched = tensor(one), tensor(other)
    torch.testing.assert_close(
        donsker_varadhan(joint + constant, mismatched + constant),
        donsker_varadhan(joint, mismatched),
        rtol=0,
        atol=1e-9,
    )


@pytest.mark.parametrize("constant", [-700.0, 0.0, 900.0])
def test_a_constant_estimator_has_loss_zero(constant: float) -> None:
    # In float64 exp(900) overflows: it must never be taken.
    value = torch.full((5,), constant, dtype=torch.float64)
    assert donsker_varadhan(value, value).item() == pytest.approx(0.0, abs=1e-12)


def test_the_best_estimator_reaches_the_mutual_information() -> None:
    # X = Z with four equally likely values: I = log 4, and f = log of the density ratio.
    ratio = torch.full((4, 4), -1e3, dtype=torch.float64).fill_diagonal_(math.log(4.0))
    assert donsker_varadhan(ratio.diagonal(), ratio).item() == pytest.approx(-math.log(4.0))
    flatter = ratio.clamp_min(-1)
    worse = donsker_varadhan(flatter.diagonal(), flatter).item()
    assert worse > -math.log(4.0) + 0.1


def test_log_mean_exp_of_equal_scores_is_the_score() -> None:
    assert log_mean_exp(torch.full((2, 3), 1.5)).item() == pytest.approx(1.5)
