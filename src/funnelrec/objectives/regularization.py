"""Penalties on the size of embeddings."""

from __future__ import annotations

import torch
from torch import Tensor


def l2_of_rows(*rows: Tensor) -> Tensor:
    r"""Return half the squared length of the rows of a batch, averaged over the batch.

    .. math:: \frac{1}{2n} \sum_{\text{parts}} \sum_{k=1}^{n} \lVert x_k \rVert^2

    Parameters
    ----------
    rows
        Parts of shape ``(n, d)``: users, positives, negatives.

    Examples
    --------
    >>> import torch
    >>> l2_of_rows(torch.ones(4, 3), torch.ones(4, 3)).item()
    3.0
    """
    batch = rows[0].shape[0]
    total = rows[0].new_zeros(())
    for part in rows:
        total = total + part.square().sum()
    return total / (2 * max(batch, 1))


def table_lengths(*tables: Tensor) -> Tensor:
    r"""Return the lengths of whole tables, added up and divided by the rows of the last one.

    .. math:: \frac1N \sum_{T} \lVert T \rVert_F

    What RecBole calls EmbLoss, and the releases of CRGCN and its kin take over.

    Parameters
    ----------
    tables
        Of any shapes ``(rows, d)``; the last one is that of the N items.

    Examples
    --------
    >>> import torch
    >>> table_lengths(torch.ones(9, 1), torch.ones(4, 1)).item()
    1.25
    """
    total = tables[-1].new_zeros(())
    for table in tables:
        total = total + torch.linalg.vector_norm(table)
    return total / tables[-1].shape[0]
