"""How far each behavior leads to the target: measured on training pairs, nobody's opinion."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from funnelrec.data.dataset import TrainingData
from funnelrec.data.interactions import Interactions
from funnelrec.models.funnel.candidates import Doubles, totals

_DOUBT = 2.0
"""Standard deviations by which a rate is raised before it is judged."""

_LEAST_LIFT = 1.2
"""Raised rate over chance below which a behavior is silenced."""


@dataclass(frozen=True)
class Alignment:
    """What training says about one auxiliary behavior.

    Parameters
    ----------
    pairs
        Pairs of the behavior.
    rate
        Share of them that the user also bought.
    chance
        That share if the pairs had nothing to do with purchases: see :func:`alignments`.
    weight
        From 0 (silenced) to 1 (the best aligned behavior).
    """

    pairs: int
    rate: float
    chance: float
    weight: float


def alignments(data: TrainingData, *, least: float = 0.02) -> Mapping[str, Alignment]:
    r"""Return how far each auxiliary behavior is aligned with the target.

    For a behavior b with pairs :math:`R_b`, purchases :math:`R` and their degrees
    :math:`d_u, d_i`:

    .. math::
        r_b = \frac{|R_b \cap R|}{|R_b|}, \qquad
        c_b = \frac{1}{|R_b|} \sum_{(u,i) \in R_b} \frac{d_u d_i}{|R|}, \qquad
        w_b = \frac{(r_b + 2 \sigma_b - c_b)_+}{\max_a (r_a + 2 \sigma_a - c_a)_+}

    :math:`c_b` is what pairs of equally busy users and equally popular items would share with
    the purchases by chance; :math:`\sigma_b` is the standard deviation of the share, so that a
    rare behavior has the benefit of the doubt. A weight below ``least``, and one where
    :math:`r_b + 2 \sigma_b < 1.2\, c_b`, becomes 0: a behavior that is random, or that nobody's
    purchases follow, is silenced without anybody removing it.

    Parameters
    ----------
    data
        Training interactions; validation pairs are not looked at.
    least
        Smallest weight that is kept, in [0, 1].

    Examples
    --------
    >>> from funnelrec.data.interactions import Interactions
    >>> from funnelrec.testing import make_dataset
    >>> def pairs(users, items):
    ...     return Interactions.from_pairs(users, items, n_users=900, n_items=900)
    >>> everybody = np.arange(900)
    >>> bought = pairs(everybody, everybody)
    >>> other = pairs(everybody, (everybody + 1) % 900)
    >>> data = make_dataset({"random": other, "view": bought, "purchase": bought}).training
    >>> {name: found.weight for name, found in alignments(data).items()}
    {'random': 0.0, 'view': 1.0}
    """
    bought = data.purchases
    users, items = bought.user_degrees.astype(np.float64), bought.item_degrees.astype(np.float64)
    found: dict[str, tuple[int, float, float]] = {}
    for name in data.auxiliary:
        part = data.interactions[name]
        size = max(part.nnz, 1)
        shared = int(bought.contains(part.users, part.indices).sum())
        by_chance = float((users[part.users] * items[part.indices]).sum()) / max(bought.nnz, 1)
        found[name] = (part.nnz, shared / size, by_chance / size)
    excess = {}
    for name, (size, rate, chance) in found.items():
        count = max(size, 1)
        raised = rate + _DOUBT * math.sqrt((rate * (1 - rate) + 1 / count) / count)
        heard = size > 0 and raised >= _LEAST_LIFT * chance
        excess[name] = max(raised - chance, 0.0) if heard else 0.0
    best = max(excess.values(), default=0.0)
    weights = {name: value / best if best > 0 else 0.0 for name, value in excess.items()}
    return MappingProxyType(
        {
            name: Alignment(*values, weight=weights[name] if weights[name] >= least else 0.0)
            for name, values in found.items()
        }
    )


def user_alignments(behavior: Interactions, bought: Interactions) -> Doubles:
    r"""Return by what a user's own alignment multiplies the weight of a behavior.

    Of the :math:`n_u` pairs of the behavior, :math:`h_u` were bought, the share r over all
    users. How far users differ beyond chance is measured by the intraclass correlation
    :math:`\rho` (analysis of variance of the pairs by user), and each user's share is drawn to
    r by as much as his pairs leave open:

    .. math::
        \frac{1}{r} \cdot \frac{h_u + s\,r}{n_u + s}, \qquad s = \frac{1 - \rho}{\rho}

    A user without pairs has 1, everybody has 1 where users do not differ (:math:`\rho \le 0`)
    or where nothing was bought, and a user with many pairs has nearly his own share.

    Reference: Ridout, Demetrio, Firth, "Estimating Intraclass Correlation for Binary Data",
    Biometrics 1999 (analysis-of-variance estimator).

    Parameters
    ----------
    behavior
        Pairs of one auxiliary behavior.
    bought
        Purchases known; what is hidden is not among them.

    Returns
    -------
    float64, shape ``(n_users,)``, at least 0.

    Examples
    --------
    >>> def pairs(users, items):
    ...     return Interactions.from_pairs(users, items, n_users=2, n_items=100)
    >>> viewed = pairs(np.repeat([0, 1], 100), np.tile(np.arange(100), 2))
    >>> bought = pairs(np.zeros(50, int), np.arange(50))  # the first buys half of it
    >>> user_alignments(viewed, bought).round(2).tolist()
    [1.99, 0.01]
    """
    sizes = behavior.user_degrees.astype(np.float64)
    hits = totals(
        behavior.users, bought.contains(behavior.users, behavior.indices), behavior.shape[0]
    )
    nothing = np.ones(len(sizes))
    some = sizes > 0
    n, h = sizes[some], hits[some]
    groups, whole = len(n), n.sum()
    if groups < 2 or whole <= groups or not h.sum():
        return nothing
    rate = h.sum() / whole
    between = float((n * (h / n - rate) ** 2).sum()) / (groups - 1)
    within = float((h * (1 - h / n)).sum()) / (whole - groups)
    typical = (whole - (n * n).sum() / whole) / (groups - 1)
    spread = between + (typical - 1) * within
    correlation = (between - within) / spread if spread > 0 else 0.0
    if correlation <= 0:
        return nothing
    strength = (1 - min(correlation, 1.0)) / correlation
    return np.asarray(
        np.where(some, (hits + strength * rate) / np.maximum(sizes + strength, 1e-12) / rate, 1.0)
    )
