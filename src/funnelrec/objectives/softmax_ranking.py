"""Ranking of one positive above several negatives at once."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def softmax_ranking(positive: Tensor, negatives: Tensor) -> Tensor:
    r"""Return the mean of :math:`\ln(1 + \sum_k e^{s^-_k - s^+})`.

    It is the cross-entropy of picking the positive out of itself and its K negatives; with one
    negative it is BPR.

    Parameters
    ----------
    positive
        Scores, shape ``(n,)``, n at least 1.
    negatives
        Scores, shape ``(n, K)``.

    Examples
    --------
    >>> round(softmax_ranking(torch.zeros(2), torch.zeros(2, 3)).item(), 4)
    1.3863
    """
    gap = torch.logsumexp(negatives, dim=1) - positive
    return F.softplus(gap).mean()
