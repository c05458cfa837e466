"""Contrastive losses between two views of the same rows."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

# Largest logit whose power, and that of its negative, float32 holds with room for sums.
_STEEPEST = 40.0

LOGIT_BUDGET = 2**25
"""Logits of one block of :func:`info_nce_among_all`, 128 MiB in float32."""


def _unit(rows: Tensor) -> Tensor:
    return F.normalize(rows, dim=-1)


def info_nce(
    anchor: Tensor,
    other: Tensor,
    *,
    temperature: float,
    symmetric: bool = True,
    present: Tensor | None = None,
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
    present
        bool, shape ``(n,)``: rows that take part, all by default; 0 if there is none. Gives what
        the rows alone would, and no GPU has to tell how many they are.

    Examples
    --------
    >>> views = torch.eye(4)
    >>> expected = torch.log(1 + 3 * torch.exp(torch.tensor(-1 / 0.2)))
    >>> bool(torch.isclose(info_nce(views, views, temperature=0.2), expected))
    True
    """
    mine, others = _unit(anchor) / temperature, _unit(other)
    logits = mine @ others.T
    # Not the diagonal of the logits: its gradient would be a matrix of its own.
    positive = (mine * others).sum(dim=1)
    if not symmetric:
        return _mean(torch.logsumexp(_without(logits, present), dim=1) - positive, present)
    if 1 / temperature > _STEEPEST:
        rows = torch.logsumexp(_without(logits, present), dim=1)
        columns = torch.logsumexp(_without(logits.T, present), dim=1)
    else:
        # A cosine is at most 1, so one matrix of powers serves both directions as it is.
        powers = torch.exp(logits.to(positive.dtype))
        if present is None:
            sums = [powers.sum(dim=1), powers.sum(dim=0)]
        else:
            # Of who is absent nothing is taken; 1 stands for a sum that nobody asks for.
            there = present.to(powers.dtype)
            sums = [torch.where(present, part, 1) for part in (powers @ there, there @ powers)]
        rows, columns = (torch.log(part) for part in sums)
    return (_mean(rows - positive, present) + _mean(columns - positive, present)) / 2


def _without(logits: Tensor, present: Tensor | None) -> Tensor:
    """Return logits that let no absent column add anything."""
    if present is None:
        return logits
    # Not infinity: where nothing is present, that would have no gradient.
    return logits.masked_fill(~present, torch.finfo(logits.dtype).min / 2)


def _mean(losses: Tensor, present: Tensor | None) -> Tensor:
    """Return the mean over the rows that are present, 0 if there is none."""
    if present is None:
        return losses.mean()
    return torch.where(present, losses, 0.0).sum() / present.sum().clamp_min(1)


def info_nce_among_all(
    anchor: Tensor,
    view: Tensor,
    places: Tensor,
    *,
    temperature: float,
    left_out: Tensor | None = None,
    left_out_logit: float = -torch.inf,
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
    left_out
        Rows of the view that are no negatives of an anchor, int64, shape ``(n, k)``, -1 for none;
        never the anchor's own. None at all if not given.
    left_out_logit
        What stands for them in the sum: minus infinity leaves them out, 0 counts each as 1.
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
    without = [None] * len(blocks) if left_out is None else torch.split(left_out, size)
    if len(blocks) == 1:
        return _log_sum(mine, others, temperature, left_out, left_out_logit) - positive
    sums = [
        checkpoint(_log_sum, block, others, temperature, part, left_out_logit, use_reentrant=False)
        for block, part in zip(blocks, without, strict=True)
    ]
    return torch.cat(sums) - positive


def _log_sum(
    mine: Tensor, others: Tensor, temperature: float, left_out: Tensor | None, logit: float
) -> Tensor:
    logits = mine @ others.T / temperature
    if left_out is not None:
        # One column more takes what is no row.
        places = torch.where(left_out < 0, len(others), left_out)
        logits = F.pad(logits, (0, 1)).scatter(1, places, logit)[:, :-1]
    return torch.logsumexp(logits, dim=1)


def info_nce_with_own_view(anchor: Tensor, other: Tensor, *, temperature: float) -> Tensor:
    r"""Return the InfoNCE loss against the other rows of both views.

    .. math:: -\frac1n\sum_u \log\frac{\exp(\cos(a_u, o_u)/T)}
       {\sum_{u'}\exp(\cos(a_u, o_{u'})/T) + \sum_{u' \ne u}\exp(\cos(a_u, a_{u'})/T)}

    Parameters
    ----------
    anchor, other
        Two views of n rows, shape ``(n, d)``, n at least 1.
    temperature
        T, above 0.

    References
    ----------
    Zhu et al., "Deep Graph Contrastive Representation Learning", 2020.

    Examples
    --------
    >>> views = torch.eye(4)
    >>> expected = torch.log(1 + 2 * 3 * torch.exp(torch.tensor(-1 / 0.5)))
    >>> bool(torch.isclose(info_nce_with_own_view(views, views, temperature=0.5), expected))
    True
    """
    unit, against = _unit(anchor), _unit(other)
    between, within = unit @ against.T / temperature, unit @ unit.T / temperature
    own = torch.eye(len(unit), dtype=torch.bool, device=unit.device)
    logits = torch.cat([between, within.masked_fill(own, -torch.inf)], dim=1)
    return (torch.logsumexp(logits, dim=1) - between.diagonal()).mean()


def decoupled_alignment(
    view: Tensor, anchor: Tensor, *, temperature: float, present: Tensor | None = None
) -> Tensor:
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
    present
        As of :func:`info_nce`.
    """  # noqa: E501 - one formula
    if len(view) < 2:
        return view.sum() * 0.0
    unit = _unit(view)
    aligned = (unit * _unit(anchor)).sum(dim=-1) / temperature
    logits = unit @ unit.T / temperature
    own = torch.eye(len(unit), dtype=torch.bool, device=unit.device)
    if present is None:
        return (torch.logsumexp(logits.masked_fill(own, -torch.inf), dim=-1) - aligned).mean()
    spread = torch.logsumexp(_without(logits, present & ~own), dim=-1)
    # One row alone is repelled by nobody.
    return _mean(spread - aligned, present) * (present.sum() > 1)
