"""Bayesian personalised ranking: a positive should score above a negative."""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor


def bpr(positive: Tensor, negative: Tensor) -> Tensor:
    r"""Return the mean of :math:`-\ln\sigma(s^+ - s^-)`.

    Written as a softplus, so badly ranked pairs keep their gradient (releases that add an
    epsilon inside the logarithm lose it).

    Parameters
    ----------
    positive, negative
        Scores of the pairs, any one shape, not empty.

    References
    ----------
    Rendle et al., "BPR: Bayesian Personalized Ranking from Implicit Feedback", UAI 2009.

    Examples
    --------
    >>> import torch
    >>> round(bpr(torch.zeros(3), torch.zeros(3)).item(), 4)
    0.6931
    """
    return F.softplus(negative - positive).mean()


def bpr_per_row(
    positive: Tensor, negative: Tensor, present: Tensor, *, pad_missing: bool = False
) -> Tensor:
    r"""Return one BPR risk per row, averaged over the entries that are present.

    Parameters
    ----------
    positive, negative
        Scores, shape ``(B, n)``: one row per behavior.
    present
        bool, shape ``(B, n)``: which entries are real triples.
    pad_missing
        Average over all n entries and count ln 2 for an absent one, as releases do that keep an
        empty row 0 for who lacks a behavior: the risk of a sparse behavior is diluted by its
        coverage.

    Returns
    -------
    Tensor
        Shape ``(B,)``; for a row without any real triple 0, or ln 2 with ``pad_missing``.
    """
    costs = F.softplus(negative - positive) * present
    risks = costs.sum(dim=1) / present.sum(dim=1).clamp_min(1)
    if not pad_missing:
        return risks
    share = present.to(risks.dtype).mean(dim=1)
    return risks * share + (1 - share) * math.log(2)
