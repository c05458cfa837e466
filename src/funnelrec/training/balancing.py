"""Gradients of several losses put together so that the first one leads."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class LeadingGradient(nn.Module):
    r"""Adds gradients of tasks up, parameter by parameter, after taming those of all but the first.

    For a parameter with gradients :math:`g_0, \dots, g_m`, and a running length
    :math:`n_j \leftarrow \beta n_j + (1 - \beta) \lVert g_j \rVert` of each: where
    :math:`n_j > n_0`,

    .. math::
        g_j &\leftarrow g_j - \frac{g_j^T g_0}{\lVert g_0 \rVert^2} g_0
        \quad \text{if } g_j^T g_0 < 0 \\
        g_j &\leftarrow \rho \frac{n_0}{n_j} g_j + (1 - \rho) g_j

    so a task that pulls harder than the first is kept from pulling against it, and made shorter.
    Everything stays on the device.

    Parameters
    ----------
    tasks
        Their number, the leading one first.
    parameters
        How many parameters the network has.
    relax
        rho, from 0 (lengths stay) to 1.
    memory
        beta, from 0 to below 1.

    References
    ----------
    Hybrid manipulation of gradients in Xu et al., "Multi-behavior Self-supervised Learning for
    Recommendation", SIGIR 2023; after He et al., "MetaBalance", WWW 2022.

    Examples
    --------
    >>> lead = LeadingGradient(2, 1, relax=0.0, memory=0.0)
    >>> lead([[torch.tensor([1.0, 0.0])], [torch.tensor([-2.0, 3.0])]])
    [tensor([1., 3.])]
    """

    lengths: Tensor

    def __init__(self, tasks: int, parameters: int, *, relax: float, memory: float) -> None:
        super().__init__()
        self._relax, self._memory = relax, memory
        self.register_buffer("lengths", torch.zeros(tasks, parameters))

    @torch.no_grad()
    def forward(self, gradients: Sequence[Sequence[Tensor | None]]) -> list[Tensor | None]:
        """Return one gradient per parameter, None where no task has one.

        Parameters
        ----------
        gradients
            Of each task, per parameter; None where a task does not reach it. A parameter that the
            first task does not reach takes the plain sum.
        """
        found: list[Tensor | None] = []
        for place, column in enumerate(zip(*gradients, strict=True)):
            lead, *others = column
            total = lead
            if lead is not None:
                mine = self._remember(0, place, lead)
                square = lead.square().sum().clamp_min(torch.finfo(lead.dtype).tiny)
            for task, other in enumerate(others, 1):
                if other is None:
                    continue
                if lead is None:
                    total = other if total is None else total + other
                    continue
                length = self._remember(task, place, other)
                stronger = length > mine
                along = (other * lead).sum()
                against = torch.where(stronger & (along < 0), along / square, 0.0)
                scale = torch.where(stronger, 1 - self._relax * (1 - mine / length), 1.0)
                total = total + (other - against * lead) * scale
            found.append(total)
        return found

    def _remember(self, task: int, place: int, gradient: Tensor) -> Tensor:
        length = torch.linalg.vector_norm(gradient)
        kept = self.lengths[task, place]
        kept.mul_(self._memory).add_((1 - self._memory) * length)
        return kept.clone()
