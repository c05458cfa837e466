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
    positive, middle, negative
        Scores, shape ``(n,)``, n at least 1.
    weight
        How firmly the middle item stands above the negative one, shape ``(n,)``, at least 0.
    present
        bool, shape ``(n,)``: whether there is a middle item; what stands in ``middle`` and
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
    >>> round(ordinal(zeros, zeros, zeros, weight=torch.ones(2), present=some).item(), 4)
    1.0397
    """
    held = torch.where(present, middle, 0.0)
    direct = F.softplus(negative - positive)
    steps = upper_weight * F.softplus(held - positive)
    steps = steps + torch.where(present, weight, 0.0) * F.softplus(negative - held)
    if direct_weight:
        steps = steps + direct_weight * direct
    return torch.where(present, steps, direct).mean()
