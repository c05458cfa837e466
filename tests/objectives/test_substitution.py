from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from funnelrec.common.errors import ConfigError
from funnelrec.objectives.substitution import (
    POOLINGS,
    pool_evidence,
    shifted_cosine,
    substitution_evidence,
    substitution_margin,
    substitution_penalty,
)

seeds = st.integers(0, 1000)


def rows_of(seed: int, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_()


@given(seeds)
def test_the_cosine_is_its_definition_with_gradients(seed: int) -> None:
    one, other, intent = rows_of(seed, 4, 3), rows_of(seed + 1, 4, 3), rows_of(seed + 2, 4, 3)
    found = shifted_cosine(one, other, intent)
    expected = torch.stack(
        [
            ((a + z) @ (b + z)) / (((a + z) @ (a + z)) * ((b + z) @ (b + z))).sqrt()
            for a, b, z in zip(one, other, intent, strict=True)
        ]
    )
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
    leaves = [one, other, intent]
    weights = torch.arange(1.0, 5, dtype=torch.float64)
    torch.testing.assert_close(
        torch.autograd.grad((found * weights).sum(), leaves),
        torch.autograd.grad((expected * weights).sum(), leaves),
        rtol=1e-8,
        atol=1e-10,
    )


def test_the_projection_may_come_first() -> None:
    # cos((e + z) W, (e' + z) W) of Eq. 12
    one, other, intent, matrix = (rows_of(seed, 5, 5) for seed in range(4))
    torch.testing.assert_close(
        shifted_cosine(one @ matrix, other @ matrix, intent @ matrix),
        shifted_cosine((one + intent) @ matrix, (other + intent) @ matrix),
    )


def test_the_candidates_own_intent_makes_it_asymmetric() -> None:
    one, other = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    mine, theirs = torch.tensor([1.0, 1.0]), torch.tensor([-1.0, 0.0])
    assert shifted_cosine(one, other, mine) != shifted_cosine(other, one, theirs)


def test_zero_vectors_are_orthogonal_to_all() -> None:
    zero = torch.zeros(3, requires_grad=True)
    cosine = shifted_cosine(zero, torch.ones(3))
    assert cosine.item() == 0
    (gradient,) = torch.autograd.grad(cosine, zero)
    assert gradient.isfinite().all()


def test_evidence_is_bounded_and_the_margin_is_a_softplus_of_the_cosine() -> None:
    cosine = torch.linspace(-1, 1, 9, dtype=torch.float64)
    evidence = substitution_evidence(cosine)
    assert evidence[0].item() == pytest.approx(0.26894142)
    assert evidence[-1].item() == pytest.approx(0.73105858)
    expected = torch.log(1 + torch.exp(torch.log(evidence / (1 - evidence))))
    torch.testing.assert_close(substitution_margin(evidence), expected)
    torch.testing.assert_close(expected, torch.log(1 + torch.exp(cosine)))


def slow_pool(evidence: Tensor, rows: Tensor, sizes: Tensor, how: str) -> Tensor:
    pooled = []
    for row, size in enumerate(sizes.tolist()):
        mine = [evidence[place] for place in range(len(rows)) if rows[place] == row]
        assert len(mine) == size
        kept = torch.ones((), dtype=torch.float64)
        for s in mine:
            kept = kept * (1 - s / math.sqrt(size))
        value = {
            "noisy_or": 1 - kept,
            "mean": torch.stack(mine).mean() if mine else 0 * kept,
            "max": torch.stack(mine).max() if mine else 0 * kept,
            "none": 0 * kept,
        }[how]
        pooled.append(value + 0 * evidence.sum())
    return torch.stack(pooled)


@pytest.mark.parametrize("how", POOLINGS)
@given(sizes=st.lists(st.integers(0, 5), min_size=1, max_size=6), seed=seeds)
def test_pooling_is_its_definition_with_gradients(how: Any, sizes: list[int], seed: int) -> None:
    counts = torch.tensor(sizes)
    rows = torch.repeat_interleave(torch.arange(len(sizes)), counts)
    leaf = rows_of(seed, len(rows))
    evidence = torch.sigmoid(leaf)
    found, expected = (
        pool(evidence, rows, counts, how).sum() + 0 * evidence.sum()
        for pool in (pool_evidence, slow_pool)
    )
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(
        torch.autograd.grad(found, leaf, retain_graph=True),
        torch.autograd.grad(expected, leaf),
        rtol=1e-9,
        atol=1e-12,
    )


@pytest.mark.parametrize(("n", "r"), [(1, 0.5), (4, 0.684), (16, 0.882), (100, 0.994)])
def test_the_noisy_or_still_grows_with_the_number_of_purchases(n: int, r: float) -> None:
    evidence, rows = torch.full((n,), 0.5), torch.zeros(n, dtype=torch.int64)
    pooled = pool_evidence(evidence, rows, torch.tensor([n]), "noisy_or")
    assert pooled.item() == pytest.approx(r, abs=1e-3)


def test_an_unknown_pooling_is_refused() -> None:
    how: Any = "median"
    with pytest.raises(ConfigError, match=r"pooling must be one of noisy_or, .* got 'median'"):
        pool_evidence(torch.ones(1), torch.zeros(1, dtype=torch.int64), torch.ones(1), how)


@pytest.mark.parametrize("margin", [None, 0.3])
@pytest.mark.parametrize("evidence_factor", [True, False])
@pytest.mark.parametrize("weighted", [True, False])
@given(seed=seeds)
def test_the_penalty_is_its_definition_with_gradients(
    margin: float | None, evidence_factor: bool, weighted: bool, seed: int
) -> None:
    gap, cosine, raw = rows_of(seed, 4, 3), rows_of(seed + 1, 4, 3), rows_of(seed + 2, 4)
    evidence, weight = torch.sigmoid(cosine), torch.sigmoid(raw)
    present = torch.rand(4, 3, generator=torch.Generator().manual_seed(seed)) < 0.7
    found = substitution_penalty(
        gap,
        evidence,
        present=present,
        weight=weight[:, None] if weighted else None,
        margin=margin,
        evidence_factor=evidence_factor,
    )
    terms = []
    for row, column in present.nonzero().tolist():
        s = evidence[row, column]
        least = math.log(1) + torch.log(1 / (1 - s)) if margin is None else margin
        term = torch.clamp(gap[row, column] + least, min=0)
        term = term * (s if evidence_factor else 1) * (weight[row] if weighted else 1)
        terms.append(term)
    nothing = 0 * (gap.sum() + evidence.sum() + weight.sum())
    expected = nothing + (torch.stack(terms).mean() if terms else 0)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(
        torch.autograd.grad(found + nothing, [gap, cosine, raw], retain_graph=True),
        torch.autograd.grad(expected, [gap, cosine, raw]),
        rtol=1e-9,
        atol=1e-12,
    )


def test_one_competitor_at_right_angles() -> None:
    # s = r = 1/2, gamma = ln 2, so the calibrated weight is half the confidence.
    s = substitution_evidence(torch.zeros(1))
    r = pool_evidence(s, torch.zeros(1, dtype=torch.int64), torch.tensor([1]), "noisy_or")
    w = 0.84
    weight = w * (1 - r)
    assert weight.item() == pytest.approx(w / 2)
    found = substitution_penalty(
        torch.zeros(1), s, present=torch.ones(1, dtype=torch.bool), weight=weight
    )
    assert found.item() == pytest.approx(w / 2 * 0.5 * math.log(2))
