"""Item neighborhoods: cosine between items over weighted behaviors, shrunk where it is thin."""

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


class ItemKNNSettings(WeightedSettings):
    """Settings of the item neighborhoods."""

    neighbors: int = Field(
        200, ge=1, description="Most similar items k that vote for an item; ties are kept, too."
    )
    shrinkage: float = Field(
        10.0,
        ge=0,
        description="Added to the product of two lengths, so that a cosine over few users "
        "counts less.",
    )
    own: float = Field(
        1.0,
        ge=0,
        description="Factor on the similarity of an item to itself. 0 is the textbook: what a "
        "user touched gets no vote from that very touch, and stands behind what is merely "
        "similar; 1 lets touched items compete fairly.",
    )


@register
class ItemKNN(SparseSimilarityRecommender[ItemKNNSettings]):
    r"""Recommends items similar to what the user did, stronger behaviors counting more.

    With the weighted matrix :math:`X = \sum_b w_b R^{(b)}` of users and items, its column
    :math:`x_i` and shrinkage h:

    .. math::
        s_{ij} &= \frac{x_i^T x_j}{\lVert x_i \rVert \lVert x_j \rVert + h} \\
        \hat y_{uj} &= \sum_{i \in N_k(j)} x_{ui} s_{ij} + \omega\, x_{uj} s_{jj}

    where :math:`N_k(j)` are the k items most similar to j, j itself left out, and
    :math:`\omega` is ``own``. The products are taken in blocks of sparse rows, and only the
    neighbors are kept.

    Reference: Sarwar, Karypis, Konstan, Riedl, "Item-Based Collaborative Filtering
    Recommendation Algorithms", WWW 2001; shrinkage as in Bell and Koren, "Improved
    Neighborhood-based Collaborative Filtering", KDD Cup 2007.

    Departures: several behaviors in one matrix; neighbors are those of the item to be scored,
    and equally similar ones at the end of a neighborhood are all kept; ``own``.
    """

    name = "itemknn"
    summary = "Items similar to what the user did, by shrunk cosine over weighted behaviors."
    reference = "Sarwar et al., WWW 2001"
    Settings: ClassVar[type[Config]] = ItemKNNSettings
    capabilities: ClassVar[Capabilities] = Capabilities(
        folds_in_new_users=True, uses_auxiliary=True, deterministic=True
    )
    search_space: ClassVar[SearchSpace] = {
        "neighbors": Range(10, 2000, log=True),
        "shrinkage": Range(0.1, 300.0, log=True),
        "own": Range(0.01, 10.0, log=True),
        "weights": PerAuxiliary(Range(0.01, 3.0, log=True)),
    }

    def similarity(self, profiles: sp.csr_array) -> sp.csr_array:
        """Return the shrunk cosines of every item's neighbors."""
        lengths = np.sqrt(profiles.power(2).sum(axis=0)).astype(np.float32)
        shrinkage = np.float32(self.config.shrinkage)

        def shrunk(rows: Places, columns: Places, products: Values) -> Values:
            return products / (lengths[rows] * lengths[columns] + shrinkage)

        by_scored = neighbors(
            profiles.T.tocsr(),
            profiles,
            self.config.neighbors,
            weigh=shrunk,
            own=self.config.own,
        )
        return by_scored.T.tocsr()
