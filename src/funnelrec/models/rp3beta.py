"""RP3beta: random walks of three steps over users and items, popular ends made less likely."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import scipy.sparse as sp
from pydantic import Field

from funnelrec.common.config import Config
from funnelrec.graph.neighbors import Places, Values, neighbors
from funnelrec.models.base import Capabilities, register
from funnelrec.models.space import PerAuxiliary, Range, SearchSpace
from funnelrec.models.weighted import SparseSimilarityRecommender, WeightedSettings


class RP3BetaSettings(WeightedSettings):
    """Settings of RP3beta."""

    alpha: float = Field(
        1.0, gt=0, description="Power of every step's probability: above 1 favors likely steps."
    )
    beta: float = Field(
        0.5, ge=0, description="Power of an item's weight that its score is divided by."
    )
    neighbors: int = Field(
        200, ge=1, description="Strongest items k that lead to an item; ties are kept, too."
    )
    own: float = Field(
        1.0,
        ge=0,
        description="Factor on walks that come back to the item they left from. 0 leaves them "
        "out, as common implementations do; 1 keeps them, as the paper's walk does.",
    )


@register
class RP3Beta(SparseSimilarityRecommender[RP3BetaSettings]):
    r"""Random walks user, item, user, item over weighted behaviors.

    With the weighted matrix :math:`X = \sum_b w_b R^{(b)}`, its sums :math:`d_u` over the items
    of a user and :math:`d_i` over the users of an item:

    .. math::
        W_{ij} &= \sum_v \Big(\frac{x_{vi}}{d_i}\Big)^{\alpha}
        \Big(\frac{x_{vj}}{d_v}\Big)^{\alpha}, \\
        s_{uj} &= \frac{1}{d_j^{\beta}} \Big( \sum_{i \in N_k(j)}
        \Big(\frac{x_{ui}}{d_u}\Big)^{\alpha} W_{ij}
        + \omega \Big(\frac{x_{uj}}{d_u}\Big)^{\alpha} W_{jj} \Big)

    where :math:`N_k(j)` are the k items with the largest :math:`W_{ij}`, j itself left out, and
    :math:`\omega` is ``own``. A step is the likelier, the more the behavior counts.

    Reference: Paudel, Christoffel, Newell, Bernstein, "Updatable, Accurate, Diverse, and Scalable
    Recommendations for Interactive Applications", ACM TiiS 2017 (RP3beta); alpha from Cooper,
    Lee, Radzik, Siantos, "Random Walks in Recommender Systems", WWW Companion 2014 (P3alpha).

    Departures: several behaviors in one matrix; the walk is exact, not sampled, and cut to
    neighborhoods of the item it ends at; alpha beside beta, as common implementations have it.
    """

    name = "rp3beta"
    summary = "Random walks of three steps over weighted behaviors, popular items held back."
    reference = "Paudel et al., TiiS 2017"
    Settings: ClassVar[type[Config]] = RP3BetaSettings
    capabilities: ClassVar[Capabilities] = Capabilities(
        folds_in_new_users=True, uses_auxiliary=True, deterministic=True
    )
    search_space: ClassVar[SearchSpace] = {
        "alpha": Range(0.3, 2.0),
        "beta": Range(0.0, 1.0),
        "neighbors": Range(10, 2000, log=True),
        "own": Range(0.01, 10.0, log=True),
        "weights": PerAuxiliary(Range(0.01, 3.0, log=True)),
    }

    def similarity(self, profiles: sp.csr_array) -> sp.csr_array:
        """Return the walks that end at every item, from the strongest items they start at."""
        popular = _sums(profiles, axis=0)
        held_back = np.zeros_like(popular)
        np.power(popular, -np.float32(self.config.beta), out=held_back, where=popular > 0)

        def less_popular(rows: Places, columns: Places, products: Values) -> Values:
            return products * held_back[rows]

        from_item = _powered(profiles.T.tocsr(), popular, self.config.alpha)
        by_end = neighbors(
            self.weighed(profiles).T.tocsr(),
            from_item.T.tocsr(),
            self.config.neighbors,
            weigh=less_popular,
            own=self.config.own,
        )
        return by_end.T.tocsr()

    def weighed(self, profiles: sp.csr_array) -> sp.csr_array:
        """Return the probabilities of a user's first step, each to the power alpha."""
        return _powered(profiles, _sums(profiles, axis=1), self.config.alpha)


def _sums(matrix: sp.csr_array, axis: int) -> Values:
    return np.asarray(matrix.sum(axis=axis), dtype=np.float32)


def _powered(matrix: sp.csr_array, row_sums: Values, alpha: float) -> sp.csr_array:
    """Return every row divided by its sum, its entries then taken to the power alpha."""
    shares = matrix.data / np.repeat(row_sums, np.diff(matrix.indptr))
    powered = np.power(shares, np.float32(alpha))
    return sp.csr_array((powered, matrix.indices, matrix.indptr), shape=matrix.shape)
