"""Two-step ranking: bought above hesitated over, hesitated over above never seen."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def ordinal(
    positive: Tensor, middle: Tensor, negative: Tensor, *, weight: Tensor, present: Tensor
) -> Tensor:
    r"""Return the mean of the two-step loss.

    .. math:: -\ln\sigma(s^+ - s^\circ) - \bar w \ln\sigma(s^\circ - s^-)

    A row without a middle item is a plain pair, :math:`-\ln\sigma(s^+ - s^-)`.

    Parameters
    ----------
    positive, middle, negative
        Scores, shape ``(n,)``, n at least 1.
    weight
        How firmly the middle item stands above the negative one, shape ``(n,)``, in [0, 1].
    present
        bool, shape ``(n,)``: whether there is a middle item; what stands in ``middle`` and
        ``weight`` where there is none has no influence.

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
    upper = F.softplus(torch.where(present, held - positive, negative - positive))
    lower = F.softplus(negative - held) * torch.where(present, weight, 0.0)
    return (upper + lower).mean()
