"""Contrastive losses between two views of the same rows."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


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
