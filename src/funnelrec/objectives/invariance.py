"""Penalties that make the risks of several environments agree."""

from __future__ import annotations

import torch
from torch import Tensor


def risk_variance(risks: Tensor, *, unbiased: bool = True, present: Tensor | None = None) -> Tensor:
    r"""Return the variance of the risks (V-REx).

    Parameters
    ----------
    risks
        One risk per environment, shape ``(B,)``.
    unbiased
        Divide by B - 1 (the RMBRec release) instead of B (its Eq. 7). A single environment has
        variance 0 either way.
    present
        bool, shape ``(B,)``: risks that take part, all by default.

    References
    ----------
    Krueger et al., "Out-of-Distribution Generalization via Risk Extrapolation", ICML 2021;
    RMBRec (WWW 2026), Eq. 7.

    Examples
    --------
    >>> risk_variance(torch.tensor([1.0, 3.0])).item()
    2.0
    >>> risk_variance(torch.tensor([1.0, 3.0]), unbiased=False).item()
    1.0
    """
    if len(risks) < 2:
        return risks.sum() * 0.0
    if present is None:
        return torch.var(risks, correction=1 if unbiased else 0)
    count = present.sum()
    mean = (risks * present).sum() / count.clamp_min(1)
    squares = ((risks - mean) * present).square().sum()
    return squares / (count - 1 if unbiased else count).clamp_min(1)


def irm_penalty(gaps: Tensor, present: Tensor, scale: Tensor | float = 1.0) -> Tensor:
    r"""Return the IRMv1 penalty of the BPR risks of several environments.

    With :math:`R_b(w) = \text{mean}\ \text{softplus}(-w g)` the penalty is
    :math:`\sum_b (dR_b/dw)^2`, and :math:`dR_b/dw = \text{mean}(-g\,\sigma(-w g))` has a closed
    form, so no second backward pass is needed.

    Parameters
    ----------
    gaps
        Score of the positive minus score of the negative, shape ``(B, n)``.
    present
        bool, shape ``(B, n)``: which entries are real triples.
    scale
        w, where the derivative is taken: 1 (IRM-V2 in RMBRec) or a trained scalar (IRM-V1).

    References
    ----------
    Arjovsky et al., "Invariant Risk Minimization", 2019, Eq. 4; RMBRec (WWW 2026), Eqs. 14-15.

    Examples
    --------
    >>> irm_penalty(torch.zeros(2, 4), torch.ones(2, 4, dtype=torch.bool)).item()
    0.0
    """
    slopes = -gaps * torch.sigmoid(-scale * gaps) * present
    means = slopes.sum(dim=1) / present.sum(dim=1).clamp_min(1)
    return means.square().sum()


def gradient_variance(risks: Tensor, parameter: Tensor) -> Tensor:
    r"""Return how much the gradients of the risks with respect to a parameter differ.

    The variance over environments (divisor B - 1) of each entry of
    :math:`\partial R_b/\partial\theta`, averaged over the entries: what the RMBRec release
    calls IRM v2. Costs one backward pass per environment and a second-order one.

    Parameters
    ----------
    risks
        One risk per environment, shape ``(B,)``, part of a graph that reaches ``parameter``.
    parameter
        Any tensor that requires a gradient.
    """
    if len(risks) < 2:
        return risks.sum() * 0.0
    gradients = [torch.autograd.grad(risk, parameter, create_graph=True)[0] for risk in risks]
    return torch.stack(gradients).var(dim=0).mean()
