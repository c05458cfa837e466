"""Contrastive losses between two views of the same rows."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

LOGIT_BUDGET = 2**25
"""Logits of one block of :func:`info_nce_among_all`, 128 MiB in float32."""


def _unit(rows: Tensor) -> Tensor:
    return F.normalize(rows, dim=-1)


def info_nce(
    anchor: Tensor, other: Tensor, *, temperature: float, symmetric: bool = True
) -> Tensor:
    r"""Return the InfoNCE loss between two views, with the other rows as negatives.

    .. math:: -\frac1n\sum_u \log\frac{\exp(\cos(a_u, o_u)/T)}{\sum_{u'}\exp(\cos(a_u, o_{u'})/T)}

    The positive is part of the denominator. With ``symmetric`` the roles are swapped and the
    two losses averaged.

    Parameters
    ----------
    anchor, other
        Two views of n rows, shape ``(n, d)``, n at least 1.
    temperature
        T, above 0.
    symmetric
        Average both directions.

    Examples
    --------
    >>> views = torch.eye(4)
    >>> expected = torch.log(1 + 3 * torch.exp(torch.tensor(-1 / 0.2)))
    >>> bool(torch.isclose(info_nce(views, views, temperature=0.2), expected))
    True
    """
    logits = _unit(anchor) @ _unit(other).T / temperature
    positive = logits.diagonal()
    forward = (torch.logsumexp(logits, dim=1) - positive).mean()
    if not symmetric:
        return forward
    return (forward + (torch.logsumexp(logits, dim=0) - positive).mean()) / 2


def info_nce_among_all(
    anchor: Tensor,
    view: Tensor,
    places: Tensor,
    *,
    temperature: float,
    budget: int = LOGIT_BUDGET,
) -> Tensor:
    r"""Return the InfoNCE loss of each anchor against every row of a view.

    .. math:: -\log\frac{\exp(\cos(a_k, v_{\pi(k)})/T)}{\sum_{n}\exp(\cos(a_k, v_n)/T)}

    The positive is part of the denominator.

    Parameters
    ----------
    anchor
        Shape ``(n, d)``.
    view
        Shape ``(N, d)``: everybody, not the batch alone.
    places
        pi, the row of the view that belongs to each anchor, int64, shape ``(n,)``.
    temperature
        T, above 0.
    budget
        Logits held at one time (a single anchor may exceed it); the backward pass computes each
        block again. Memory, never the result.

    Returns
    -------
    Tensor
        Shape ``(n,)``.

    Examples
    --------
    >>> rows = torch.eye(3)
    >>> losses = info_nce_among_all(rows, rows, torch.arange(3), temperature=1.0)
    >>> expected = torch.log(1 + 2 * torch.exp(torch.tensor(-1.0)))
    >>> bool(torch.isclose(losses, expected).all())
    True
    """
    mine, others = _unit(anchor), _unit(view)
    positive = (mine * others[places]).sum(dim=-1) / temperature
    size = max(1, budget // max(len(view), 1))
    blocks = torch.split(mine, size)
    if len(blocks) == 1:
        return _log_sum(mine, others, temperature) - positive
    sums = [
        checkpoint(_log_sum, block, others, temperature, use_reentrant=False) for block in blocks
    ]
    return torch.cat(sums) - positive


def _log_sum(mine: Tensor, others: Tensor, temperature: float) -> Tensor:
    return torch.logsumexp(mine @ others.T / temperature, dim=1)


def decoupled_alignment(view: Tensor, anchor: Tensor, *, temperature: float) -> Tensor:
    r"""Return the alignment of a view to an anchor, repelled within the view.

    .. math:: -\frac1n\sum_u\log\frac{\exp(\cos(v_u, a_u)/T)}{\sum_{u'\ne u}\exp(\cos(v_u, v_{u'})/T)}

    RMBRec Eq. 3 as printed: the denominator compares the view with itself and leaves the
    positive out, so the loss may fall below 0.

    Parameters
    ----------
    view, anchor
        Two views of n rows, shape ``(n, d)``. A single row has no other to be repelled by:
        its loss is 0.
    temperature
        T, above 0.
    """  # noqa: E501 - one formula
    if len(view) < 2:
        return view.sum() * 0.0
    unit = _unit(view)
    aligned = (unit * _unit(anchor)).sum(dim=-1) / temperature
    logits = unit @ unit.T / temperature
    own = torch.eye(len(unit), dtype=torch.bool, device=unit.device)
    return (torch.logsumexp(logits.masked_fill(own, -torch.inf), dim=-1) - aligned).mean()
