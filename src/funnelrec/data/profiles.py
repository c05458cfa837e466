"""One user x item matrix out of several behaviors: each counts by its weight."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import scipy.sparse as sp

from funnelrec.common.errors import ConfigError, suggestion
from funnelrec.data.dataset import TrainingData


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
                f"weights names the unknown behavior {name!r}: {suggestion(name, data.behaviors)}"
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
    parts = {
        name: data.interactions[name].matrix() * np.float32(weight)
        for name, weight in behavior_weights(data, weights).items()
    }
    added = sum(parts.values(), sp.csr_array(data.shape, dtype=np.float32)).tocsr()
    total = sp.csr_array((added.data, added.indices, added.indptr), shape=data.shape)
    total.sort_indices()
    # A weight of 0, and one below the smallest float32, leave zeros, which are no pairs.
    total.eliminate_zeros()
    return total
