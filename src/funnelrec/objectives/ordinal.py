"""Two-step ranking: bought above hesitated over, hesitated over above never seen."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def ordinal(
    positive: Tensor,
    middle: Tensor,
    negative: Tensor,
    *,
    weight: Tensor,
    present: Tensor,
    upper_weight: float = 1.0,
    direct_weight: float = 0.0,
) -> Tensor:
    r"""Return the mean of the two-step loss.

    .. math:: -a \ln\sigma(s^+ - s^\circ) - \bar w \ln\sigma(s^\circ - s^-)
       - c \ln\sigma(s^+ - s^-)

    with a = 1 and c = 0 in the paper. With the log-sum-exp of several negatives for s^-, a step
    is the cross-entropy of picking the better item out of itself and them.

    A row without a middle item is a plain pair, :math:`-\ln\sigma(s^+ - s^-)`.

    Parameters
    ----------
    positive, negative
        Scores, shape ``(n,)``, n at least 1.
    middle
        Scores, shape ``(n, H)``: a row takes the mean over its H middle items.
    weight
        How firmly a middle item stands above the negative one, shape ``(n, H)``, at least 0.
    present
        bool, shape ``(n,)``: whether there are middle items; what stands in ``middle`` and
        ``weight`` where there is none has no influence.
    upper_weight, direct_weight
        a and c, for rows that have a middle item.

    References
    ----------
    CHARM (SIGIR 2026), Eq. 15, with the middle item in E?, which its subscript misprints; the row
    without one is our completion.

    Examples
    --------
    >>> zeros, some = torch.zeros(2), torch.tensor([True, False])
    >>> middle, one = torch.zeros(2, 1), torch.ones(2, 1)
    >>> round(ordinal(zeros, middle, zeros, weight=one, present=some).item(), 4)
    1.0397
    """
    direct = F.softplus(negative - positive)
    held = torch.where(present[:, None], middle, 0.0)
    steps = upper_weight * F.softplus(held - positive[:, None])
    weighed = torch.where(present[:, None], weight, 0.0)
    steps = (steps + weighed * F.softplus(negative[:, None] - held)).mean(dim=1)
    if direct_weight:
        steps = steps + direct_weight * direct
    return torch.where(present, steps, direct).mean()
