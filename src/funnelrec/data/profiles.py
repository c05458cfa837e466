"""One user x item matrix out of several behaviors: each counts by its weight."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import scipy.sparse as sp

from funnelrec.common.errors import ConfigError, suggestion
from funnelrec.data.dataset import TrainingData
from funnelrec.data.interactions import Interactions


def behavior_weights(data: TrainingData, weights: Mapping[str, float]) -> dict[str, float]:
    """Return the weight of every behavior of the data, 1 where none is given.

    Parameters
    ----------
    data
        Whose behaviors, in whose order.
    weights
        Some of them, at least 0 each; 0 leaves a behavior out.

    Raises
    ------
    ConfigError
        If a name is no behavior of the data, a weight is negative or not finite, or no behavior
        with a training pair has a weight above 0.
    """
    for name, weight in weights.items():
        if name not in data.behaviors:
            raise ConfigError(
                f"weights names the unknown behavior {name!r}{suggestion(name, data.behaviors)}"
            )
        if not (np.isfinite(weight) and weight >= 0):
            raise ConfigError(f"the weight of {name!r} must be at least 0, got {weight}.")
    complete = {name: float(weights.get(name, 1.0)) for name in data.behaviors}
    if not any(weight and data.interactions[name].nnz for name, weight in complete.items()):
        raise ConfigError(
            f"weights must be above 0 for a behavior that has training pairs, got {complete}; "
            f"give {data.target!r} the weight 1."
        )
    return complete


def weighted_profiles(data: TrainingData, weights: Mapping[str, float]) -> sp.csr_array:
    r"""Return what each user did with each item, behaviors added up by weight.

    .. math:: X = \sum_b w_b R^{(b)}

    Parameters
    ----------
    data
        Training interactions; validation pairs are not looked at.
    weights
        As in :func:`behavior_weights`.

    Returns
    -------
    scipy.sparse.csr_array
        float32, shape ``(n_users, n_items)``, sorted int32 indices, no stored zeros.

    Raises
    ------
    ConfigError
        As :func:`behavior_weights`.
    """
    return weighted_sum(data.interactions, behavior_weights(data, weights))


def weighted_sum(
    interactions: Mapping[str, Interactions], weights: Mapping[str, float]
) -> sp.csr_array:
    """Return matrices of one shape added up by the weight of their behavior.

    Parameters
    ----------
    interactions
        Per behavior; at least one.
    weights
        Of every behavior in ``interactions``, as :func:`behavior_weights` gives them.

    Returns
    -------
    scipy.sparse.csr_array
        float32, sorted int32 indices, no stored zeros.
    """
    shape = next(iter(interactions.values())).shape
    parts = [
        sp.csr_array(
            (np.full(part.nnz, weights[name], np.float32), part.indices, part.indptr), shape=shape
        )
        for name, part in interactions.items()
        if weights[name]
    ]
    # A copy: the arrays of interactions are read-only.
    first = parts[0].copy() if parts else sp.csr_array(shape, dtype=np.float32)
    added = sum(parts[1:], first).tocsr()
    total = sp.csr_array((added.data, added.indices, added.indptr), shape=shape)
    total.sort_indices()
    # A weight below the smallest float32 leaves zeros, which are no pairs.
    total.eliminate_zeros()
    return total
