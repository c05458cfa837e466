"""Penalties on the size of embeddings."""

from __future__ import annotations

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
