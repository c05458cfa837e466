"""A lower bound on mutual information, trained by its negative."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def donsker_varadhan(joint: Tensor, mismatched: Tensor) -> Tensor:
    r"""Return the negative Donsker-Varadhan bound on the mutual information of two variables.

    .. math:: L = \log\frac1n\sum_k \exp f(z_k, x_{\pi(k)}) - \frac1n\sum_k f(z_k, x_k)

    Minimising it over f gives :math:`-I(Z; X)` from above. The optimum is unique up to a constant:
    f + c has the same loss, so the zero of f means nothing by itself. A constant f has loss 0.

    Parameters
    ----------
    joint
        f on pairs that belong together, any shape, not empty.
    mismatched
        f on pairs drawn independently of each other, any shape, not empty.

    References
    ----------
    Donsker, Varadhan, 1983; Belghazi et al., "Mutual Information Neural Estimation", ICML 2018;
    CHARM (SIGIR 2026), Eqs. 6 and 8.

    Examples
    --------
    >>> donsker_varadhan(torch.full((4,), 3.0), torch.full((4,), 3.0)).item()
    0.0
    >>> round(donsker_varadhan(torch.ones(2), torch.zeros(2)).item(), 4)
    -1.0
    """
    return log_mean_exp(mismatched) - joint.mean()


def log_mean_exp(scores: Tensor) -> Tensor:
    r"""Return :math:`\log\frac1n\sum_k \exp f_k` without overflow, a scalar.

    Parameters
    ----------
    scores
        Any shape, not empty.
    """
    flat = scores.flatten()
    return torch.logsumexp(flat, dim=0) - math.log(flat.numel())
