r"""Substitution: what was bought may explain why something similar was not.

Symbols of CHARM (SIGIR 2026), Eqs. 12 to 14: a candidate i that user u touched and did not buy,
competitors i' that u bought, evidence s of each, pooled evidence r of all.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from funnelrec.common.errors import ConfigError

Pooling = Literal["noisy_or", "mean", "max", "none"]
POOLINGS: tuple[Pooling, ...] = get_args(Pooling)


def shifted_cosine(candidate: Tensor, competitor: Tensor, intent: Tensor | None = None) -> Tensor:
    r"""Return :math:`\cos(p_i + \zeta, p_{i'} + \zeta)`.

    With :math:`p = e W_S` and :math:`\zeta = z W_S` this is the cosine inside Eq. 12, because the
    projection is linear. Both sides carry the candidate's intent, so it is not symmetric in the
    two items. A vector of zeros has cosine 0 with everything.

    Parameters
    ----------
    candidate
        p_i, shape ``(..., d)``.
    competitor
        p_i', a shape that broadcasts with it.
    intent
        zeta, a shape that broadcasts with both; none if not given.

    Returns
    -------
    Tensor
        The broadcast shape without d, in [-1, 1].

    Examples
    --------
    >>> shifted_cosine(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 2.0])).item()
    0.0
    """
    if intent is not None:
        candidate, competitor = candidate + intent, competitor + intent
    return F.cosine_similarity(candidate, competitor, dim=-1)


def substitution_evidence(cosine: Tensor) -> Tensor:
    r"""Return :math:`s = \sigma(\cos)`, in [.2689, .7311] (Eq. 12).

    Examples
    --------
    >>> substitution_evidence(torch.zeros(())).item()
    0.5
    """
    return torch.sigmoid(cosine)


def substitution_margin(evidence: Tensor) -> Tensor:
    r"""Return :math:`\gamma = \text{softplus}(\ln\frac{s}{1 - s}) = -\ln(1 - s)` (Eq. 14).

    The epsilon of the printed formula is left out: s stays away from 0 and 1.

    Parameters
    ----------
    evidence
        s, any shape, in [0, 1).

    Examples
    --------
    >>> round(substitution_margin(torch.tensor(0.5)).item(), 4)
    0.6931
    """
    return -torch.log1p(-evidence)


def pool_evidence(evidence: Tensor, rows: Tensor, sizes: Tensor, how: Pooling) -> Tensor:
    r"""Return r of each candidate from the evidence of all its competitors (Eq. 13).

    .. math:: r = 1 - \prod_{i'}\left(1 - \frac{s_{i'}}{\sqrt n}\right)

    over its n competitors, summed as logarithms; or the mean or the maximum of s, or 0.

    The division by the root does not keep r from growing: at s = 1/2 it is .50, .68, .88 and .99
    for n = 1, 4, 16 and 100.

    Parameters
    ----------
    evidence
        s of every (candidate, competitor), shape ``(m,)``, in [0, 1).
    rows
        The candidate of each entry, int64, shape ``(m,)``.
    sizes
        n, competitors per candidate, shape ``(n,)``; a candidate without any has r = 0.
    how
        ``noisy_or``, ``mean``, ``max`` or ``none``.

    Returns
    -------
    Tensor
        Shape ``(n,)``, in [0, 1].

    Raises
    ------
    ConfigError
        If ``how`` is unknown.

    Examples
    --------
    >>> s, rows = torch.tensor([0.5, 0.6, 0.4]), torch.tensor([0, 1, 1])
    >>> pool_evidence(s, rows, torch.tensor([1, 2, 0]), "max").tolist()
    [0.5, 0.6000000238418579, 0.0]
    """
    pooled = evidence.new_zeros(len(sizes))
    if how == "none":
        return pooled
    if how == "max":
        return pooled.scatter_reduce(0, rows, evidence, "amax", include_self=True)
    number = sizes.to(evidence.dtype).clamp_min(1)
    if how == "mean":
        return pooled.index_add(0, rows, evidence) / number
    if how == "noisy_or":
        parts = torch.log1p(-evidence * number.rsqrt()[rows])
        return -torch.expm1(pooled.index_add(0, rows, parts))
    raise ConfigError(f"pooling must be one of {', '.join(POOLINGS)}, got {how!r}.")


def substitution_penalty(
    gap: Tensor,
    evidence: Tensor,
    *,
    present: Tensor,
    weight: Tensor | None = None,
    margin: float | None = None,
    evidence_factor: bool = True,
) -> Tensor:
    r"""Return the mean penalty on candidates that score too close to what replaced them (Eq. 14).

    .. math:: \text{mean}\ \bar w\, s\, \max(0,\ y_{ui} - y_{ui'} + \gamma)

    over the pairs that are present, 0 if none is. As :math:`\bar w` already has the factor
    1 - r, the weight w s (1 - s) of a candidate with one competitor is largest at s = 1/2, and
    smaller for stronger substitutes.

    Parameters
    ----------
    gap
        y_ui - y_ui', any shape.
    evidence
        s, the same shape.
    present
        bool, the same shape: which pairs are real.
    weight
        w-bar of the candidate, a shape that broadcasts; 1 if not given.
    margin
        A constant margin; that of the evidence (:func:`substitution_margin`) if not given.
    evidence_factor
        Whether s is a factor.

    Examples
    --------
    >>> one = torch.zeros(1)
    >>> half = torch.full((1,), 0.5)
    >>> round(substitution_penalty(one, half, present=one == 0).item(), 4)
    0.3466
    """
    least = substitution_margin(evidence) if margin is None else margin
    terms = F.relu(gap + least)
    if evidence_factor:
        terms = terms * evidence
    if weight is not None:
        terms = terms * weight
    return torch.where(present, terms, 0.0).sum() / present.sum().clamp_min(1)
