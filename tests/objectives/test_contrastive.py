from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from funnelrec.objectives.contrastive import (
    decoupled_alignment,
    info_nce,
    info_nce_among_all,
    info_nce_with_own_view,
)


def views(seed: int, rows: int, dim: int = 4) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.randn(rows, dim, generator=generator, dtype=torch.float64),
        torch.randn(rows, dim, generator=generator, dtype=torch.float64),
    )


def cos(one: Tensor, other: Tensor) -> float:
    return float((one @ other) / (one.norm() * other.norm()))


def slow_info_nce(anchor: Tensor, other: Tensor, temperature: float) -> float:
    total = 0.0
    for place, row in enumerate(anchor):
        terms = [math.exp(cos(row, candidate) / temperature) for candidate in other]
        total -= math.log(terms[place] / sum(terms))
    return total / len(anchor)


def slow_decoupled(view: Tensor, anchor: Tensor, temperature: float) -> float:
    total = 0.0
    for place, row in enumerate(view):
        numerator = math.exp(cos(row, anchor[place]) / temperature)
        rest = [
            math.exp(cos(row, candidate) / temperature)
            for number, candidate in enumerate(view)
            if number != place
        ]
        total -= math.log(numerator / sum(rest))
    return total / len(view)


seeds, sizes, temperatures = st.integers(0, 1000), st.integers(2, 7), st.floats(0.05, 2.0)


@given(seeds, sizes, temperatures)
def test_info_nce_is_its_definition(seed: int, rows: int, temperature: float) -> None:
    anchor, other = views(seed, rows)
    forward = slow_info_nce(anchor, other, temperature)
    backward = slow_info_nce(other, anchor, temperature)
    one_way = info_nce(anchor, other, temperature=temperature, symmetric=False)
    both = info_nce(anchor, other, temperature=temperature)
    assert one_way.item() == pytest.approx(forward, rel=1e-9)
    assert both.item() == pytest.approx((forward + backward) / 2, rel=1e-9)


@given(seeds, sizes, temperatures)
def test_decoupled_alignment_is_its_definition(seed: int, rows: int, temperature: float) -> None:
    view, anchor = views(seed, rows)
    found = decoupled_alignment(view, anchor, temperature=temperature)
    assert found.item() == pytest.approx(slow_decoupled(view, anchor, temperature), rel=1e-9)


@pytest.mark.parametrize("n", [2, 5, 16])
@pytest.mark.parametrize("temperature", [0.07, 0.5])
def test_orthonormal_identical_views(n: int, temperature: float) -> None:
    rows = torch.eye(n, dtype=torch.float64)
    official = math.log(1 + (n - 1) * math.exp(-1 / temperature))
    eq3 = -1 / temperature + math.log(n - 1)
    assert info_nce(rows, rows, temperature=temperature).item() == pytest.approx(
        official, rel=1e-9, abs=1e-12
    )
    assert decoupled_alignment(rows, rows, temperature=temperature).item() == pytest.approx(eq3)


@given(seeds, sizes)
def test_lengths_of_rows_do_not_matter(seed: int, rows: int) -> None:
    one, other = views(seed, rows)
    scale = torch.arange(1, rows + 1, dtype=torch.float64)[:, None]
    for loss in (info_nce, decoupled_alignment):
        plain = loss(one, other, temperature=0.3)
        assert loss(one * scale, other / scale, temperature=0.3).item() == pytest.approx(
            plain.item(), rel=1e-9
        )


def test_the_two_forms_repel_from_different_rows() -> None:
    # The anchors of two users coincide, their views do not: only cross-view negatives see it.
    view = torch.eye(2, dtype=torch.float64)
    anchor = torch.tensor([[1.0, 0.0], [1.0, 0.0]], dtype=torch.float64)
    moved = torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    assert slow_decoupled(view, anchor, 1.0) == pytest.approx(-0.5)
    assert decoupled_alignment(view, anchor, temperature=1.0).item() == pytest.approx(-0.5)
    assert decoupled_alignment(view, moved, temperature=1.0).item() == pytest.approx(-1.0)
    assert info_nce(view, anchor, temperature=1.0).item() > math.log(2)


@pytest.mark.parametrize("rows", [1])
def test_a_single_row_has_nothing_to_be_told_from(rows: int) -> None:
    one, other = views(3, rows)
    one.requires_grad_()
    for loss in (info_nce, decoupled_alignment):
        value = loss(one, other, temperature=0.07)
        assert value.item() == pytest.approx(0.0, abs=1e-12)
        (slope,) = torch.autograd.grad(value, one)
        assert slope.abs().max().item() < 1e-9


def test_zero_rows_give_finite_values_and_gradients() -> None:
    one, other = views(4, 3)
    one[1] = 0
    one.requires_grad_()
    for loss in (info_nce, decoupled_alignment):
        value = loss(one, other, temperature=0.07)
        (slope,) = torch.autograd.grad(value, one)
        assert value.isfinite()
        assert slope.isfinite().all()


def test_a_small_temperature_does_not_overflow_in_single_precision() -> None:
    rows = torch.eye(4)
    assert info_nce(rows, rows.flip(0), temperature=0.005).item() == pytest.approx(200.0)
    assert decoupled_alignment(rows, rows, temperature=0.005).isfinite()


@pytest.mark.parametrize("temperature", [0.02, 0.026, 0.07])
@pytest.mark.parametrize("some", [False, True])
def test_single_precision_is_enough_where_all_point_away(temperature: float, some: bool) -> None:
    """Every power is as small as it can be, on either side of the way they are added up."""
    anchor = torch.tensor([[1.0, 0.1], [1.0, -0.1], [1.0, 0.0]])
    other = -anchor.flip(0)
    present = torch.tensor([True, True, False]) if some else None
    found, slopes = [], []
    for dtype in (torch.float32, torch.float64):
        leaf = anchor.to(dtype).requires_grad_()
        loss = info_nce(leaf, other.to(dtype), temperature=temperature, present=present)
        found.append(loss.item())
        slopes.append(torch.autograd.grad(loss, leaf)[0].double())
    assert found[0] == pytest.approx(found[1], rel=1e-4)
    torch.testing.assert_close(*slopes, rtol=1e-3, atol=1e-4)


def test_gradients_agree_with_finite_differences() -> None:
    one, other = (view.requires_grad_() for view in views(5, 4))
    for loss in (info_nce, decoupled_alignment):
        assert torch.autograd.gradcheck(
            lambda a, b, loss=loss: loss(a, b, temperature=0.5), (one, other)
        )


@pytest.mark.parametrize("budget", [10**6, 14, 1])
def test_among_all_is_its_definition_with_gradients(budget: int) -> None:
    generator = torch.Generator().manual_seed(2)
    anchor, view = (
        torch.randn(rows, 3, dtype=torch.float64, generator=generator).requires_grad_()
        for rows in (5, 7)
    )
    places = torch.tensor([6, 0, 0, 3, 2])
    found = info_nce_among_all(anchor, view, places, temperature=0.3, budget=budget)
    cosines = torch.stack(
        [torch.stack([a @ v / (a.norm() * v.norm()) for v in view]) for a in anchor]
    )
    powers = torch.exp(cosines / 0.3)
    expected = -torch.log(powers[torch.arange(5), places] / powers.sum(dim=1))
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    weight = torch.linspace(1, 2, 5, dtype=torch.float64)
    torch.testing.assert_close(
        torch.autograd.grad((found * weight).sum(), (anchor, view)),
        torch.autograd.grad((expected * weight).sum(), (anchor, view)),
    )


@pytest.mark.parametrize("budget", [1, 20, 10**6])
@pytest.mark.parametrize("logit", [-math.inf, 0.0])
def test_rows_left_out_are_no_negatives(budget: int, logit: float) -> None:
    generator = torch.Generator().manual_seed(3)
    anchor = torch.randn(3, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    view = torch.randn(6, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    places, left_out = torch.tensor([0, 4, 5]), torch.tensor([[1, 2], [-1, -1], [0, -1]])
    found = info_nce_among_all(
        anchor,
        view,
        places,
        temperature=0.3,
        left_out=left_out,
        left_out_logit=logit,
        budget=budget,
    )
    expected = []
    for row, place in enumerate(places.tolist()):
        total = torch.zeros((), dtype=torch.float64)
        for other in range(6):
            cosine = torch.cosine_similarity(anchor[row], view[other], dim=0) / 0.3
            total = total + math.exp(logit) if other in left_out[row] else total + cosine.exp()
            if other == place:
                positive = cosine.exp()
        expected.append(-torch.log(positive / total))
    torch.testing.assert_close(found, torch.stack(expected))
    torch.testing.assert_close(
        torch.autograd.grad(found.sum(), [anchor, view]),
        torch.autograd.grad(torch.stack(expected).sum(), [anchor, view]),
    )


@pytest.mark.parametrize("form", [info_nce, decoupled_alignment])
@settings(max_examples=30)
@given(seed=seeds, chosen=st.lists(st.booleans(), min_size=2, max_size=7))
def test_absent_rows_leave_no_trace(form: Any, seed: int, chosen: list[bool]) -> None:
    one, other = (part.requires_grad_() for part in views(seed, len(chosen)))
    present = torch.tensor(chosen)
    masked = form(one, other, temperature=0.3, present=present)
    found = torch.autograd.grad(masked, (one, other))
    if any(chosen):
        selected = form(one[present], other[present], temperature=0.3)
        expected = torch.autograd.grad(selected, (one, other), materialize_grads=True)
    else:
        selected, expected = torch.zeros(()), tuple(torch.zeros_like(part) for part in found)
    assert masked.item() == pytest.approx(selected.item(), abs=1e-12)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


@given(seed=st.integers(0, 10**6), rows=st.integers(1, 6))
def test_with_the_own_view_is_its_definition(seed: int, rows: int) -> None:
    anchor, other = views(seed, rows)
    found = info_nce_with_own_view(anchor, other, temperature=0.4)
    losses = []
    for me in range(rows):
        against = [torch.cosine_similarity(anchor[me], one, dim=0) / 0.4 for one in other]
        own = [
            torch.cosine_similarity(anchor[me], anchor[one], dim=0) / 0.4
            for one in range(rows)
            if one != me
        ]
        losses.append(torch.log(torch.stack([*against, *own]).exp().sum()) - against[me])
    torch.testing.assert_close(found, torch.stack(losses).mean())
