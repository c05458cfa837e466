from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from funnelrec.training.balancing import LeadingGradient


def drawn(seed: int, tasks: int = 3, parameters: int = 2) -> list[list[Tensor | None]]:
    generator = torch.Generator().manual_seed(seed)
    return [
        [
            torch.randn(4, generator=generator, dtype=torch.float64)
            * 10.0 ** int(torch.randint(-2, 3, (), generator=generator))
            for _ in range(parameters)
        ]
        for _ in range(tasks)
    ]


@given(seed=st.integers(0, 10**6), relax=st.floats(0, 1), memory=st.sampled_from([0.0, 0.5, 0.9]))
def test_it_is_its_definition_over_several_steps(seed: int, relax: float, memory: float) -> None:
    lead = LeadingGradient(3, 2, relax=relax, memory=memory).double()
    lengths = [[0.0, 0.0] for _ in range(3)]
    for step in range(3):
        gradients = drawn(seed + step)
        found = lead(gradients)
        for place in range(2):
            first = gradients[0][place]
            assert first is not None
            total = torch.zeros(4, dtype=torch.float64)
            for task in range(3):
                part = gradients[task][place]
                assert part is not None
                lengths[task][place] = memory * lengths[task][place] + (1 - memory) * float(
                    part.norm()
                )
                if lengths[task][place] > lengths[0][place]:
                    along = float(part @ first)
                    if along < 0:
                        part = part - along / float(first @ first) * first
                        assert part @ first >= -1e-9 * part.norm() * first.norm()
                    ratio = lengths[0][place] / lengths[task][place]
                    part = relax * ratio * part + (1 - relax) * part
                total = total + part
            torch.testing.assert_close(found[place], total)


@given(seed=st.integers(0, 10**6), relax=st.floats(0, 1))
def test_what_a_task_adds_does_not_pull_against_a_weaker_lead(seed: int, relax: float) -> None:
    first, other = (row[0] for row in drawn(seed, tasks=2, parameters=1))
    assert first is not None
    assert other is not None
    (total,) = LeadingGradient(2, 1, relax=relax, memory=0.0).double()([[first], [other]])
    assert total is not None
    added = total - first
    if other.norm() > first.norm():
        assert added @ first >= -1e-12 * other.norm() * first.norm()
    else:
        torch.testing.assert_close(added, other)


def test_tasks_weaker_than_the_first_are_added_as_they_are() -> None:
    lead = LeadingGradient(2, 1, relax=0.7, memory=0.9)
    for _ in range(3):
        (found,) = lead([[torch.tensor([3.0, 0.0])], [torch.tensor([-1.0, 1.0])]])
        assert found is not None
        assert found.tolist() == [2.0, 1.0]


@pytest.mark.parametrize("missing", [0, 1])
def test_what_a_task_does_not_reach_takes_the_plain_sum(missing: int) -> None:
    lead = LeadingGradient(3, 1, relax=0.7, memory=0.0)
    gradients: list[list[Tensor | None]] = [
        [torch.tensor([1.0])],
        [torch.tensor([-5.0])],
        [torch.tensor([-7.0])],
    ]
    gradients[missing] = [None]
    if missing == 1:
        gradients[2] = [torch.tensor([0.5])]
    (found,) = lead(gradients)
    assert found is not None
    assert found.tolist() == ([-12.0] if missing == 0 else [1.5])
    assert lead([[None], [None], [None]]) == [None]


def test_running_lengths_are_state() -> None:
    lead = LeadingGradient(2, 1, relax=1.0, memory=0.5)
    lead([[torch.tensor([4.0])], [torch.tensor([8.0])]])
    assert lead.state_dict()["lengths"].tolist() == [[2.0], [4.0]]
    again = LeadingGradient(2, 1, relax=1.0, memory=0.5)
    again.load_state_dict(lead.state_dict())
    step = [[torch.tensor([1.0])], [torch.tensor([2.0])]]
    assert torch.equal(lead(step)[0], again(step)[0])
